"""Does everything a suite names exist, and take the settings it is given? Imports the algorithms, hence torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff import registry
from bakeoff.benchmarks import suite_file
from bakeoff.benchmarks.suite import AlgorithmSpec, Suite, find_suite, parse_suite
from bakeoff.benchmarks.suite_file import KeyPath, SuiteData, SuiteError
from bakeoff.errors import ConfigError, UserError


def load_suite(
    source: str | Path | Mapping[str, Any] | Suite, overrides: Sequence[str] = (), seeds: int | None = None
) -> Suite:
    """Read, override and check a suite.

    Args:
        source: a registered name, a path to a YAML file, the suite as a mapping, or a suite.
        overrides: assignments such as ``budget.reward_queries=500``.
        seeds: how many seeds, instead of what the suite says.

    Raises:
        NotFoundError: no suite of that name.
        SuiteError: every problem, one a line.
    """
    if isinstance(source, Suite):
        data = suite_file.from_mapping(source.document())
    elif isinstance(source, Mapping):
        data = suite_file.from_mapping(source)
    else:
        data = suite_file.from_file(find_suite(source) if isinstance(source, str) else source)
    suite_file.override(data, [*overrides, *([] if seeds is None else [f"seeds={seeds}"])])
    suite = parse_suite(data)
    check_names(suite, data)
    return suite


def check_names(suite: Suite, data: SuiteData) -> None:
    """Raise :class:`SuiteError` with everything that is not installed or does not fit."""
    for label, task in suite.tasks.items():
        _check_task(data, label, task.task or label, task.__pydantic_extra__)
    for label, spec in suite.algorithms.items():
        _check_algorithm(data, suite, label, spec)
    if data.problems:
        raise SuiteError(list(dict.fromkeys(data.problems)))


def _check_task(data: SuiteData, label: str, name: str, settings: Mapping[str, Any]) -> None:
    from bakeoff.envs.settings import settings_problems

    path: KeyPath = ("tasks", label)
    try:
        factory = registry.tasks.load(name)
    except UserError as error:
        data.complain((*path, "task"), str(error))
        return
    for problem in settings_problems(factory, settings):
        data.complain((*path, *_quoted(problem, settings)), f'task "{label}": {problem}')


def _check_algorithm(data: SuiteData, suite: Suite, label: str, spec: AlgorithmSpec) -> None:
    from bakeoff.algos.base import Algorithm
    from bakeoff.algos.build import parse_config

    path: KeyPath = ("algorithms", label)
    name = spec.algorithm or label
    try:
        kind = registry.algorithms.load(name)
    except UserError as error:
        data.complain((*path, "algorithm"), str(error))
        return
    if not (isinstance(kind, type) and issubclass(kind, Algorithm)):
        data.complain(path, f'algorithm "{name}" ({registry.algorithms.origin(name)}) is not a subclass of Algorithm')
        return
    own = spec.__pydantic_extra__
    for _, _, settings in suite.contestants(label, spec):
        try:
            parse_config(kind, settings)
        except ConfigError as error:
            for problem in error.problems:
                at = _quoted(problem, settings)
                place = ("sweep", *at) if at and at[0] not in own else (*path, *at)
                data.complain(place, f'algorithm "{label}": {problem}')


def _quoted(problem: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The setting that a message is about: the first quoted word, where it is one."""
    found = re.search(r'"([^"]*)"', problem)
    return (found.group(1),) if found and found.group(1) in settings else ()
