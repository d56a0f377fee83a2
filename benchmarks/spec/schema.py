"""A suite: which tasks, which algorithms, how many seeds, on what budget, evaluated how often.

:mod:`bakeoff.benchmarks.spec.canonical` makes one from plain data; :mod:`bakeoff.benchmarks.spec.validation` checks its
names and settings against what is installed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.spec.parts import (
    AccelerateSpec,
    AlgorithmSpec,
    BudgetSpec,
    EvaluateSpec,
    Label,
    Part,
    Positive,
    RaySpec,
    Scalar,
    TaskSpec,
    TuneSpec,
)
from bakeoff.envs.meter import METERS
from bakeoff.errors import NotFoundError, UserError


class Suite(Part):
    """A whole comparison, as a file describes it."""

    name: Label
    """What it is called."""
    description: str = ""
    """One or two sentences for the report."""
    tasks: dict[Label, TaskSpec] = Field(min_length=1)
    """Label to settings."""
    algorithms: dict[Label, AlgorithmSpec] = Field(min_length=1)
    """Label to settings."""
    sweep: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = Field(default_factory=dict)
    """A grid over settings, the same for every algorithm; a setting that a label fixes is not swept for it."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**53)]], Field(min_length=1)]
    """Seeds; a file may give how many."""
    budget: BudgetSpec
    """What each cell may spend."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """When and how contestants are evaluated."""
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a failed cell is tried again."""
    timeout: Positive | None = None
    """Wall-clock seconds for one attempt at a cell; none by default."""
    checkpoint_every: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Wall-clock seconds between checkpoints of a cell; 0 writes one after every update."""
    trackers: list[str] = Field(default_factory=list)
    """Where training is shown while it runs: `tensorboard`, `wandb`, or `module:Class` of your own."""
    ray: RaySpec = RaySpec()
    """How cells run under `--executor ray`."""
    accelerate: AccelerateSpec = AccelerateSpec()
    """How many processes, hence devices, one cell runs on."""
    tune: TuneSpec | None = None
    """What `bakeoff tune` searches; a run ignores it."""
    tuned: dict[str, Any] | None = None
    """The settings that `bakeoff tune` found and how; the report discloses it."""

    def document(self) -> dict[str, Any]:
        """The suite as a file could say it, sweep and defaults included; reads back as an equal suite."""
        values = self.model_dump(mode="json")
        for section, name in (("tasks", "task"), ("algorithms", "algorithm")):
            for entry in values[section].values():
                for key in (name, "budget"):
                    if entry.get(key, ...) is None:
                        del entry[key]
        for key in [key for key, value in values["evaluate"].items() if value is None]:
            del values["evaluate"][key]
        limits = [values["budget"], values["evaluate"].get("every", {})]
        for limit in [*limits, *(task["budget"] for task in values["tasks"].values() if "budget" in task)]:
            for key in [key for key, value in limit.items() if value is None]:
                del limit[key]
        for key in ("timeout", "tune", "tuned"):
            if values[key] is None:
                del values[key]
        for key, default in (("trackers", []), ("ray", RaySpec()), ("accelerate", AccelerateSpec())):
            if getattr(self, key) == default:
                del values[key]
        tune = values.get("tune")
        if tune is not None:
            limits = tune["budget"] if tune["budget"] is not None else {}
            tune["budget"] = {key: value for key, value in limits.items() if value is not None}
            if not limits:
                del tune["budget"]
        return values

    def cells(self) -> list[Cell]:
        """Every cell, tasks outermost, then seeds, so that complete comparisons come early."""
        contestants = [
            (label, name, settings)
            for base, spec in self.algorithms.items()
            for label, name, settings in self.contestants(base, spec)
        ]
        return [
            Cell(
                task=task_label,
                task_name=task.task or task_label,
                task_settings=dict(task.__pydantic_extra__),
                label=label,
                algorithm=name,
                settings=settings,
                seed=seed,
                budget=(task.budget or self.budget).limits(),
                evaluate=self._evaluation(task.budget or self.budget),
            )
            for task_label, task in self.tasks.items()
            for seed in self.seeds
            for label, name, settings in contestants
        ]

    def contestants(self, base: str, spec: AlgorithmSpec) -> list[tuple[str, str, dict[str, Any]]]:
        """What the sweep makes of one label: label, registered name and settings of each point of the grid."""
        own = dict(spec.__pydantic_extra__)
        grid = swept(own, self.sweep)
        result = []
        for point in itertools.product(*grid.values()):
            chosen = dict(zip(grid, point, strict=True))
            suffix = ",".join(f"{key}={value_text(value)}" for key, value in chosen.items())
            result.append((f"{base}[{suffix}]" if chosen else base, spec.algorithm or base, {**own, **chosen}))
        return result

    def _evaluation(self, budget: BudgetSpec) -> dict[str, Any]:
        every = self.evaluate.every.limits() if self.evaluate.every is not None else _tenth(budget.limits())
        return {"every": every, "completions": self.evaluate.completions, "samples": self.evaluate.samples}


def swept(own: Mapping[str, Any], sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the sweep that applies to a contestant: what its own settings do not fix."""
    return {key: values for key, values in sweep.items() if key not in own}


def find_suite(name: str) -> Path:
    """The file of a suite: a path to a YAML file, or the name of a registered suite.

    Raises:
        NotFoundError: neither.
        UserError: a registered suite that is no file.
    """
    from bakeoff import registry

    looks_like_path = name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name
    if looks_like_path or (name not in registry.suites.names() and _is_file(name)):
        return Path(name)
    path = registry.suites.load(name)
    origin = registry.suites.origin(name)
    if not isinstance(path, str | Path):
        raise UserError(
            f'suite "{name}" from {origin} is {path!r}, expected the path of a YAML file; repair that package'
        )
    if not Path(path).is_file():
        raise UserError(f'suite "{name}" from {origin}: there is no file {path}; repair that package')
    return Path(path)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # longer than a name can be
        return False


def select(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells whose label, or label before the sweep, is one of ``only``.

    Raises:
        NotFoundError: a label that no cell has.
    """
    labels = {cell.label for cell in cells} | {cell.label.partition("[")[0] for cell in cells}
    for label in only:
        if label not in labels:
            raise NotFoundError("label in this suite", label, labels)
    return [cell for cell in cells if cell.label in only or cell.label.partition("[")[0] in only]


def _tenth(limits: Mapping[str, float]) -> dict[str, float]:
    name = next(name for name in ("reward_queries", *METERS) if name in limits)
    share = limits[name] / 10
    return {name: share if name == "seconds" else max(1, round(share))}


def value_text(value: Scalar) -> str:
    """A swept value as a label has it."""
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
