"""The entry points through which Gymnasium makes our environments by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bakeoff.envs.tasks.base import Task
    from bakeoff.envs.tasks.prompts import Split
    from bakeoff.envs.text_generation.env import TextGenerationEnv
    from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


def make_single(task: str | Task = "exact", *, split: Split = "train", **kwargs: Any) -> TextGenerationEnv:
    """Entry point of ``gymnasium.make``: a task (or its name), and the environment's own keyword arguments.

    A task with settings of your own is made first: ``task=make_task("reviews", max_new_tokens=16)``.
    """
    from bakeoff.envs.text_generation.env import TextGenerationEnv

    return TextGenerationEnv.from_task(_task(task), split=split, **kwargs)


def make_vector(
    num_envs: int = 1, task: str | Task = "exact", *, split: Split = "train", **kwargs: Any
) -> TextGenerationVectorEnv:
    """Entry point of ``gymnasium.make_vec``; seeds and autoreset are Gymnasium's defaults."""
    from gymnasium.vector import AutoresetMode

    from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv

    settings = {"shared_prompts": False, "autoreset_mode": AutoresetMode.NEXT_STEP, **kwargs}
    return TextGenerationVectorEnv.from_task(_task(task), num_envs, split=split, **settings)


def _task(task: str | Task) -> Task:
    from bakeoff.envs.tasks.base import make_task

    return make_task(task) if isinstance(task, str) else task
