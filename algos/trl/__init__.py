"""TRL's trainers as contestants: another implementation of algorithms that are here too, on the same meter (extra ``trl``).

They come in as a plugin's algorithms do, by entry points; nothing here is known to the harness. What is TRL's: advantages,
losses, the reference's log-probabilities, gradient accumulation, the optimizer. What is ours: which prompts are used, the
completions and their rewards, which come from the environment and are counted there, and when to stop.
"""
