"""Tasks and evaluators that a process keeps between its jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bakeoff.benchmarks.evaluation.audit import watched
from bakeoff.benchmarks.evaluation.evaluator import Evaluator
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.envs.tasks.base import Task, make_task


class TaskCache:
    """Builds tasks and evaluators, and keeps the last of each: neighboring cells share them."""

    def __init__(self) -> None:
        self._task: tuple[Any, Task] | None = None
        self._evaluator: tuple[Any, Evaluator] | None = None

    def clear(self) -> None:
        """Release all of it."""
        self._task = self._evaluator = None

    def task(self, name: str, settings: Mapping[str, Any]) -> Task:
        """The task, freshly built unless it was the last one."""
        key = (name, repr(sorted(settings.items())))
        if self._task is None or self._task[0] != key:
            self._task = self._evaluator = None  # release the old model before loading the next
            self._task = (key, watched(make_task(name, **settings)))
        return self._task[1]

    def evaluator(self, cell: Cell) -> Evaluator:
        """The evaluator of a cell's task and seed."""
        task = self.task(cell.task_name, cell.task_settings)
        completions, samples = cell.evaluate["completions"], cell.evaluate["samples"]
        seeds = cell.evaluation_seed("answers"), cell.evaluation_seed("reference")
        key = (id(task), completions, samples, seeds)
        if self._evaluator is None or self._evaluator[0] != key:
            self._evaluator = (key, Evaluator(task, completions, samples, *seeds))
        return self._evaluator[1]
