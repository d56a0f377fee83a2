"""What a report needs to know of a task, written once to ``tasks/<label>.json``."""

from __future__ import annotations

from typing import Any

from bakeoff.envs.score import reward_name
from bakeoff.envs.tasks import Task


def describe(label: str, task: Task) -> dict[str, Any]:
    """Plain facts of a task; with the exact optimum and optimal frontier where it is enumerable."""
    info: dict[str, Any] = {
        "schema": 1,
        "task": label,
        "name": task.name,
        "settings": dict(task.settings),
        "kl_coef": task.kl_coef,
        "max_new_tokens": task.max_new_tokens,
        "proxy": reward_name(task.reward),
        "gold": None if task.gold is None else reward_name(task.gold),
        "measures": list(task.measures),
        "model": task.language_model.name,
        "width": task.language_model.width,
        "parameters": task.language_model.num_parameters,
        "chat": task.language_model.chat,
        "train_prompts": len(task.prompts.train),
        "evaluation_prompts": len(task.prompts.evaluation),
    }
    if task.enumeration is not None:
        reference, optimum = task.enumeration.reference, task.enumeration.optimum
        info |= {
            "j_reference": reference.objective,
            "j_optimum": optimum.objective,
            "kl_optimum": optimum.kl,
            "frontier": task.enumeration.frontier(),
        }
    return info
