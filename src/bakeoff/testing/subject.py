"""The algorithm under test, and how a check plays and scores it."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bakeoff import registry
from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task, make_task
from bakeoff.errors import BakeoffError, UserError

SHORT = Budget(reward_queries=512)
STILL = Budget(reward_queries=1_000)
LONG = Budget(reward_queries=6_000)
Row = dict[str, float]


class ContractViolation(Exception):  # noqa: N818 - what it says is the contract's state
    """The algorithm breaks the contract; the message says how, and what to do."""


class NotSupported(Exception):  # noqa: N818
    """The algorithm says that it does not do this."""


@dataclass(frozen=True)
class Subject:
    """An algorithm under test."""

    name: str
    """Its registered name, or its class name."""
    kind: type[Algorithm]
    """Its class."""
    settings: Mapping[str, Any] | None
    """Values for its ``Config``; None means its own example."""
    task: Task
    """The task it plays; enumerable."""

    @classmethod
    def of(cls, algorithm: str | type[Algorithm], settings: Mapping[str, Any] | None, task: Task | None) -> Subject:
        """Look the algorithm up; see :func:`bakeoff.testing.check_algorithm`."""
        kind = registry.algorithms.load(algorithm) if isinstance(algorithm, str) else algorithm
        name = algorithm if isinstance(algorithm, str) else algorithm.__name__
        if not (isinstance(kind, type) and issubclass(kind, Algorithm)):
            raise UserError(f'algorithm "{name}" is {kind!r}, not a subclass of bakeoff.Algorithm')
        task = make_task("exact") if task is None else task
        if task.enumeration is None:
            raise UserError(f'task "{task.name}" cannot be enumerated; check an algorithm on "exact"')
        return cls(name, kind, settings, task)

    def make(self, seed: int = 0, budget: Budget = SHORT, task: Task | None = None) -> Algorithm:
        """A new instance of the algorithm."""
        task = self.task if task is None else task
        # With the caller's task: making an example may call its reward, and those queries are not the algorithm's.
        settings = self.kind.example_settings(self.task) if self.settings is None else self.settings
        return build(self.kind, settings, task, budget, seed)

    def score(self, algorithm: Algorithm, metric: str) -> float:
        """An exact metric of the contestant in its present state."""
        assert self.task.enumeration is not None
        with algorithm.envs.meter.pause(), torch.no_grad():
            logprobs_QN = algorithm.contestant().sequence_logprobs(self.task.enumeration)
        return float(self.task.enumeration.objective(logprobs_QN)[metric])


def play(algorithm: Algorithm, updates: int) -> list[Row]:
    """Metrics and meter of each update, without the seconds."""
    rows: list[Row] = []
    for _ in range(updates):
        if algorithm.finished:
            break
        metrics = algorithm.update()
        totals = {name: value for name, value in algorithm.envs.meter.snapshot().items() if name != "seconds"}
        rows.append({**metrics, **totals})
    return rows


def error_place(error: BaseException, kind: type) -> str:
    """An exception in one line, with the last line of the algorithm's own file in its traceback."""
    text = " ".join(str(error).split())
    if not isinstance(error, BakeoffError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    file = None
    with contextlib.suppress(TypeError, OSError):  # a class from a notebook may have no file
        file = inspect.getfile(kind)
    own = [frame for frame in frames if frame.filename == file] or frames
    return f"{text} ({Path(own[-1].filename).name}:{own[-1].lineno})"
