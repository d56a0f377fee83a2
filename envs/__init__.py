"""Environments: language model, prompts, rewards, tasks, the token-level MDP and the meter.

Importing this package registers ``bakeoff/TextGeneration-v0`` with Gymnasium, and
``gymnasium.make("bakeoff.envs:bakeoff/TextGeneration-v0")`` imports it by itself. That imports Gymnasium and
nothing heavier; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium

from bakeoff.lazy import lazy_names

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel
    from bakeoff.envs.meter import Budget, Meter
    from bakeoff.envs.preferences.load import load_pairs
    from bakeoff.envs.tasks.base import Task, make_task
    from bakeoff.envs.tasks.prompts import PromptSet
    from bakeoff.envs.text_generation.env import TextGenerationEnv
    from bakeoff.envs.text_generation.sb3_vec_env import SB3VecEnv
    from bakeoff.envs.text_generation.top_tokens import TopTokens, VectorTopTokens
    from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv

__all__ = [
    "Budget",
    "LanguageModel",
    "Meter",
    "PromptSet",
    "SB3VecEnv",
    "Task",
    "TextGenerationEnv",
    "TextGenerationVectorEnv",
    "TopTokens",
    "VectorTopTokens",
    "load_pairs",
    "make_task",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Budget": "bakeoff.envs.meter",
        "LanguageModel": "bakeoff.envs.language_model.model",
        "Meter": "bakeoff.envs.meter",
        "PromptSet": "bakeoff.envs.tasks.prompts",
        "SB3VecEnv": "bakeoff.envs.text_generation.sb3_vec_env",
        "Task": "bakeoff.envs.tasks.base",
        "TextGenerationEnv": "bakeoff.envs.text_generation.env",
        "TextGenerationVectorEnv": "bakeoff.envs.text_generation.vector_env",
        "TopTokens": "bakeoff.envs.text_generation.top_tokens",
        "VectorTopTokens": "bakeoff.envs.text_generation.top_tokens",
        "load_pairs": "bakeoff.envs.preferences.load",
        "make_task": "bakeoff.envs.tasks.base",
    },
)

gymnasium.register(
    "bakeoff/TextGeneration-v0",
    entry_point="bakeoff.envs.text_generation.registration:make_single",
    vector_entry_point="bakeoff.envs.text_generation.registration:make_vector",
)
