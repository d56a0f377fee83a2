"""Plain data to a suite: first one shape for what may be written in several, then pydantic's checks, then the grid's.

All problems are reported at once, each with its file and line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from bakeoff.benchmarks.spec.parts import (
    LABEL,
    AccelerateSpec,
    BudgetSpec,
    EvaluateSpec,
    RangeSpec,
    RaySpec,
    TuneSpec,
    whole,
)
from bakeoff.benchmarks.spec.reader import KeyPath, SuiteData
from bakeoff.benchmarks.spec.schema import Suite, value_text
from bakeoff.envs.meter import METERS
from bakeoff.names import LIMITS, SUITES, instead_of

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
        texts = [value_text(value) for value in values]
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
        tables = (SUITES,) if owner is Suite else (LIMITS,) if owner is BudgetSpec else ()
        hint = instead_of(str(path[-1]), names, *tables)
        data.complain(path, f'unknown key "{path[-1]}"{where}{hint}; keys are {", ".join(names)}')
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


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "missing value" if value is None else type(value).__name__)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
