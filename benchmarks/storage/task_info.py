"""The facts of a task that a report needs, written once to ``tasks/<label>.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.cell_store import SCHEMA
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.rewards.call import reward_name
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.prompts import PromptSet

_VALUES = 1024
"""Numbers of each weight that go into a model's checksum: enough to distinguish two models, and fast at any size."""


def _prompts_sum(prompts: PromptSet) -> str:
    """SHA-256 of all prompts and their columns."""
    columns = {split: {name: list(values) for name, values in of.items()} for split, of in prompts.columns.items()}
    text = json.dumps([prompts.train, prompts.evaluation, columns], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _model_sum(model: LanguageModel) -> str:
    """SHA-256 of the beginning of every weight."""
    found = hashlib.sha256()
    for name, weight in model.module.named_parameters():
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        found.update(weight.detach().flatten()[:_VALUES].float().cpu().numpy().tobytes())
    return found.hexdigest()


def _files_sums(settings: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that settings name, such as `rewards.py` of the reward `rewards.py:kind`, by the setting."""
    found = {}
    for name, value in settings.items():
        sums = [atomic_files.checksum(path) for path in _files(value)]
        if sums and name not in ("prompts", "model"):  # these have sums of their own
            found[name] = hashlib.sha256(" ".join(sums).encode()).hexdigest()
    return found


def _files(value: Any) -> Iterator[Path]:
    if isinstance(value, str):
        where, colon, _ = value.rpartition(":")
        path = Path(where if colon and where.endswith(".py") else value)
        with suppress(OSError, ValueError):  # what cannot be a path
            if path.is_file():
                yield path
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _files(part)


def describe(label: str, task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Plain facts of a task; with the exact optimum and optimal frontier where it is enumerable.

    Args:
        label: the task's in its suite.
        task: the task.
        given: its settings as the suite gives them; the files that they name are summed.
    """
    info: dict[str, Any] = {
        "schema": SCHEMA,
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
        "inputs": {
            **_files_sums(given),
            "prompts": _prompts_sum(task.prompts),
            "model": _model_sum(task.language_model),
        },
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
