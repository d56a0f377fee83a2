"""bakeoff: find out which RL algorithm aligns your language model best, on your prompts, reward and budget.

Importing this package imports no heavy library; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bakeoff.lazy import lazy_names

if TYPE_CHECKING:
    from bakeoff.algos.core.algorithm import Algorithm
    from bakeoff.algos.core.config import AlgorithmConfig
    from bakeoff.api import load, run
    from bakeoff.envs.language_model.model import LanguageModel
    from bakeoff.envs.meter import Budget, Meter
    from bakeoff.envs.tasks.base import Task, make_task
    from bakeoff.envs.tasks.prompts import PromptSet
    from bakeoff.envs.text_generation.env import TextGenerationEnv
    from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv

__version__ = "0.1.0"
"""The one place where the version is written; the package's metadata take it from here."""

__all__ = [
    "Algorithm",
    "AlgorithmConfig",
    "Budget",
    "LanguageModel",
    "Meter",
    "PromptSet",
    "Task",
    "TextGenerationEnv",
    "TextGenerationVectorEnv",
    "load",
    "make_task",
    "run",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Algorithm": "bakeoff.algos.core.algorithm",
        "AlgorithmConfig": "bakeoff.algos.core.config",
        "Budget": "bakeoff.envs.meter",
        "LanguageModel": "bakeoff.envs.language_model.model",
        "Meter": "bakeoff.envs.meter",
        "PromptSet": "bakeoff.envs.tasks.prompts",
        "Task": "bakeoff.envs.tasks.base",
        "TextGenerationEnv": "bakeoff.envs.text_generation.env",
        "TextGenerationVectorEnv": "bakeoff.envs.text_generation.vector_env",
        "load": "bakeoff.api",
        "make_task": "bakeoff.envs.tasks.base",
        "run": "bakeoff.api",
    },
)
