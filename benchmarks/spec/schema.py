"""A suite: which tasks, which algorithms, how many seeds, on what budget, judged how often.

Reading one reports every problem at once, each with its file and line. Checking names and settings against what is
installed is in :mod:`bakeoff.benchmarks.spec.validation`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.spec.parts import (
    LABEL,
    AccelerateSpec,
    AlgorithmSpec,
    BudgetSpec,
    EvaluateSpec,
    Label,
    Part,
    Positive,
    RangeSpec,
    RaySpec,
    Scalar,
    TaskSpec,
    TuneSpec,
    whole,
)
from bakeoff.benchmarks.spec.reader import KeyPath, SuiteData
from bakeoff.envs.meter import METERS
from bakeoff.errors import NotFoundError, UserError, did_you_mean

PLACEHOLDER = "placeholder"
"""Stands for entries that could not be read, and were complained of, so that the rest is checked."""
_MAX_SEEDS = 10_000
_MAX_CELLS = 100_000
_SCALARS = ("str", "bool", "int", "float")
"""Where pydantic says which of the kinds of a scalar it has tried."""

_WORDS = {
    "model_type": "should be a mapping of keys to values",
    "dict_type": "should be a mapping of keys to values",
    "list_type": "should be a list",
    "too_short": "should not be empty",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text",
}


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
    """When and how contestants are judged."""
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
    """What `bakeoff tune` has found and how; the report discloses it."""

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
            suffix = ",".join(f"{key}={_text(value)}" for key, value in chosen.items())
            result.append((f"{base}[{suffix}]" if chosen else base, spec.algorithm or base, {**own, **chosen}))
        return result

    def _evaluation(self, budget: BudgetSpec) -> dict[str, Any]:
        every = self.evaluate.every.limits() if self.evaluate.every is not None else _tenth(budget.limits())
        return {"every": every, "completions": self.evaluate.completions, "samples": self.evaluate.samples}


def swept(own: Mapping[str, Any], sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the sweep that a contestant takes part in: what its own settings do not fix."""
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


def validated(data: SuiteData, values: Mapping[str, Any]) -> Suite | None:
    """The suite that canonical values describe; None, and problems in ``data``, where they describe none."""
    try:
        suite = Suite.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _complain_about(data, detail)
        return None
    _check_grid(data, suite)
    return suite


def canonical(data: SuiteData) -> dict[str, Any] | None:
    """One shape for what may be written in several: lists of names, a number of seeds; None where it is no mapping."""
    if not isinstance(data.values, dict):
        what = "is empty" if data.values is None else f"holds a {_kind(data.values)}"
        data.complain((), f"{what}; a suite is a mapping with name, tasks, algorithms, seeds and budget")
        return None
    values = dict(data.values)
    for section in ("tasks", "algorithms"):
        if section in values:
            values[section] = _labeled(data, section, values[section])
    seeds = whole(values.get("seeds"))
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if 0 < seeds <= _MAX_SEEDS:
            values["seeds"] = list(range(seeds))
        else:
            data.complain(("seeds",), f"seeds: {seeds} is not a number of seeds from 1 to {_MAX_SEEDS}")
            values["seeds"] = [0]
    elif isinstance(seeds, list):
        if len(seeds) > _MAX_SEEDS:
            data.complain(("seeds",), f"seeds: more than {_MAX_SEEDS}")
            values["seeds"] = [0]
        elif len(set(map(repr, seeds))) < len(seeds):
            data.complain(("seeds",), "seeds: a seed is listed twice")
    elif "seeds" in values:
        data.complain(("seeds",), f"seeds: expected a number of seeds or a list of them, got a {_kind(seeds)}")
        values["seeds"] = [0]
    for key in ("evaluate", "sweep", "trackers", "ray", "accelerate"):
        if key in values and values[key] is None:
            del values[key]
    return values


def _labeled(data: SuiteData, section: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {label: {} if settings is None else settings for label, settings in value.items()}
    if not isinstance(value, list):
        data.complain((section,), f"{section}: expected names or a mapping of labels to settings, got a {_kind(value)}")
        return {PLACEHOLDER: {}}
    result: dict[str, Any] = {}
    for index, name in enumerate(value):
        path: KeyPath = (section, index)
        if not isinstance(name, str):
            data.complain(path, f"{section}: expected a name, got a {_kind(name)}; for settings write `label: {{...}}`")
        elif name in result:
            data.complain(path, f'{section}: "{name}" is listed twice; give one of them another label')
        else:
            result[name] = {}
            data.origins[(section, name)] = data.where(path)
    return result or {PLACEHOLDER: {}} if value else {}


def _check_grid(data: SuiteData, suite: Suite) -> None:
    for section, labels in (("tasks", suite.tasks), ("algorithms", suite.algorithms)):
        seen: dict[str, str] = {}
        for label in labels:
            other = seen.setdefault(label.lower(), label)
            if other != label:
                data.complain(
                    (section, label), f'{section}: "{label}" and "{other}" differ only in case and would share a folder'
                )
    for key, values in suite.sweep.items():
        texts = [_text(value) for value in values]
        if not LABEL.fullmatch(key):
            data.complain(("sweep", key), f'sweep: "{key[:80]}" cannot be the name of a setting')
        for index, text in enumerate(texts):
            if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,64}", text):
                data.complain(("sweep", key, index), f'sweep.{key}: "{text[:80]}" cannot be part of a label')
        if len(set(texts)) < len(texts):
            data.complain(("sweep", key), f"sweep.{key}: a value is listed twice")
    every = suite.evaluate.every
    if every is not None and len(every.limits()) != 1:
        data.complain(("evaluate", "every"), f"evaluate.every: give exactly one of {', '.join(METERS)}")
    budgets: list[tuple[KeyPath, BudgetSpec]] = [(("budget",), suite.budget)]
    budgets += [(("tasks", label, "budget"), task.budget) for label, task in suite.tasks.items() if task.budget]
    if suite.tune is not None and suite.tune.budget is not None:
        budgets.append((("tune", "budget"), suite.tune.budget))
    for path, budget in budgets:
        if not budget.limits():
            data.complain(path, f"{'.'.join(map(str, path))}: give at least one limit: {', '.join(METERS)}")
    grid = 1
    for values in suite.sweep.values():
        grid *= len(values)
    count = grid * len(suite.tasks) * len(suite.algorithms) * len(suite.seeds)
    if count > _MAX_CELLS:
        data.complain((), f"{count} cells; at most {_MAX_CELLS} fit in one suite")


def _complain_about(data: SuiteData, detail: Mapping[str, Any]) -> None:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    if detail["type"] != "missing" and path[:1] == ("sweep",):
        path = path[:3]  # deeper parts name the members of a union, not places in the file
    if path[:2] == ("tune", "space"):
        # After the setting comes the kind that it was taken for; a choice's own alternatives are no places either.
        path = path[:4] + path[5:6]
    dotted = ".".join(map(str, path))
    if detail["type"] == "extra_forbidden":
        known: dict[str, type[BaseModel]] = {
            "budget": BudgetSpec,
            "every": BudgetSpec,
            "evaluate": EvaluateSpec,
            "ray": RaySpec,
            "accelerate": AccelerateSpec,
            "tune": TuneSpec,
        }
        owner = known.get(str(path[-2]), Suite) if len(path) > 1 else Suite
        owner = RangeSpec if path[:2] == ("tune", "space") else owner
        names = list(owner.model_fields)
        where = f" in {'.'.join(map(str, path[:-1]))}" if len(path) > 1 else ""
        data.complain(
            path, f'unknown key "{path[-1]}"{where}{did_you_mean(str(path[-1]), names)}; keys are {", ".join(names)}'
        )
    elif detail["type"] == "missing":
        data.complain(path[:-1], f'key "{dotted}" is missing')
    elif detail["type"] == "value_error":
        data.complain(path, f"{'.'.join(map(str, path[:1]))}: {detail['ctx']['error']}")
    else:
        message = _WORDS.get(detail["type"], detail["msg"][:1].lower() + detail["msg"][1:]).removeprefix("input ")
        searched = path[:2] == ("tune", "space")
        if (searched or path[:1] == ("sweep",)) and detail["loc"][-1] in _SCALARS:  # each of several kinds complains
            message = "should be a number" if path[-1] in ("low", "high") else "should be text, a number, true or false"
        elif searched and len(path) == 4 and detail["type"] in ("model_type", "dict_type"):
            message = "should be a range (low, high) or a list of choices"
        data.complain(path, f"{dotted}: {message}, got {_shown(detail['input'])}")


def _tenth(limits: Mapping[str, float]) -> dict[str, float]:
    name = next(name for name in ("reward_queries", *METERS) if name in limits)
    share = limits[name] / 10
    return {name: share if name == "seconds" else max(1, round(share))}


def _text(value: Scalar) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "missing value" if value is None else type(value).__name__)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
