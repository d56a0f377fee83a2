"""What is played: the language model, prompts, rewards, tasks, the token MDP and the meter.

Importing this package registers ``bakeoff/TextGeneration-v0`` with Gymnasium, and
``gymnasium.make("bakeoff.envs:bakeoff/TextGeneration-v0")`` imports it by itself.
"""

import gymnasium

gymnasium.register(
    "bakeoff/TextGeneration-v0",
    entry_point="bakeoff.envs.text_generation.registration:make_single",
    vector_entry_point="bakeoff.envs.text_generation.registration:make_vector",
)
