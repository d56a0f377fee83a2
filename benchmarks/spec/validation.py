"""Checks that all that a suite names exists and takes its settings. Imports the algorithms, hence torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff import registry
from bakeoff.benchmarks.spec import reader
from bakeoff.benchmarks.spec.canonical import PLACEHOLDER, canonical, validated
from bakeoff.benchmarks.spec.parts import Scalar
from bakeoff.benchmarks.spec.reader import KeyPath, SuiteData, SuiteError
from bakeoff.benchmarks.spec.schema import Suite, find_suite, swept
from bakeoff.errors import ConfigError, UserError
from bakeoff.names import did_you_mean

if TYPE_CHECKING:
    from bakeoff.algos.core.algorithm import Algorithm

CheckTracker = Callable[[str], None]


def load_suite(
    source: str | Path | Mapping[str, Any] | Suite,
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    *,
    check_tracker: CheckTracker | None = None,
) -> Suite:
    """Read, override and check a suite.

    Args:
        source: a registered name, a path to a YAML file, the suite as a mapping, or a suite.
        overrides: assignments such as ``budget.reward_queries=500``.
        seeds: how many seeds, instead of what the suite says.
        check_tracker: raises :class:`~bakeoff.errors.UserError` for a tracker that cannot be used, as
            ``bakeoff.benchmarks.trackers.check`` does; without it trackers are not checked.

    Raises:
        NotFoundError: no suite of that name.
        SuiteError: every problem, one per line.
    """
    if isinstance(source, Suite):
        data = reader.from_mapping(source.document())
    elif isinstance(source, Mapping):
        data = reader.from_mapping(source)
    else:
        data = reader.from_file(find_suite(source) if isinstance(source, str) else source)
    reader.override(data, [*overrides, *([] if seeds is None else [f"seeds={seeds}"])])
    return checked(data, check_tracker)


def checked(data: SuiteData, check_tracker: CheckTracker | None = None) -> Suite:
    """Plain data to a suite that can run; :class:`SuiteError` with every problem, in the order of its lines."""
    values = canonical(data)
    suite = None
    if values is not None:
        suite = validated(data, values)
        _check_tasks(data, values.get("tasks"))
        _check_algorithms(data, values.get("algorithms"), values.get("sweep"), _processes(values.get("accelerate")))
        _check_tune(data, values.get("algorithms"), values.get("tune"))
        if check_tracker is not None:
            _check_trackers(data, values.get("trackers"), check_tracker)
    if data.problems or suite is None:
        raise SuiteError(sorted(dict.fromkeys(data.problems), key=_line))
    return suite


def _line(problem: str) -> int:
    """The line that a problem names; what has none comes first, what ``--set`` brought last."""
    found = re.match(r"(?:--set .*|.*?:(\d+)): ", problem)
    return 0 if found is None else int(found.group(1) or 10**9)


def _check_tasks(data: SuiteData, tasks: Any) -> None:
    from bakeoff.envs.factory_settings import settings_problems, value_problems

    for label, name, settings in _entries(tasks, "task"):
        path: KeyPath = ("tasks", label)
        settings.pop("budget", None)
        try:
            factory = registry.tasks.load(name)
        except UserError as error:
            data.complain((*path, "task"), str(error))
            continue
        problems = settings_problems(factory, settings) or value_problems(factory, settings)
        problems += [problem for key in ("reward", "gold") if (problem := _no_reward(key, settings.get(key)))]
        for problem in problems:
            data.complain((*path, *_quoted(problem, settings)), f'task "{label}": {problem}')


def _no_reward(key: str, spec: Any) -> str | None:
    """Where a reward is asked for by a name that is not registered."""
    name = spec.get("name") if isinstance(spec, dict) else spec
    if not isinstance(name, str) or ":" in name or name in registry.rewards.names():
        return None
    known = registry.rewards.names()
    return f'setting "{key}": no reward "{name}"{did_you_mean(name, known)}; installed: {", ".join(known)}'


def _processes(accelerate: Any) -> int:
    """How many a cell runs as, as far as it is readable."""
    count = accelerate.get("processes") if isinstance(accelerate, dict) else 1
    return int(count) if isinstance(count, int | float) and math.isfinite(count) else 1


def _is_algorithm(kind: Any) -> bool:
    from bakeoff.algos.core.algorithm import Algorithm

    return isinstance(kind, type) and issubclass(kind, Algorithm)


def _check_algorithms(data: SuiteData, algorithms: Any, sweep: Any, processes: int) -> None:
    from bakeoff.algos.core.build import why_unavailable

    for label, name, own in _entries(algorithms, "algorithm"):
        path: KeyPath = ("algorithms", label)
        try:
            kind = registry.algorithms.load(name)
        except UserError as error:
            data.complain((*path, "algorithm"), str(error))
            continue
        if not _is_algorithm(kind):
            data.complain(path, f'algorithm "{name}" ({registry.algorithms.origin(name)}) is no subclass of Algorithm')
            continue
        missing = why_unavailable(kind)
        if missing is not None:
            data.complain(path, f'algorithm "{name}": {missing}')
        if processes > 1 and not kind.runs_as_several:
            data.complain(
                path, f'algorithm "{name}" runs as one process; leave out accelerate.processes, or the algorithm'
            )
        _check_settings(data, path, kind, own, own)
        # One value of the grid at a time: the whole grid can be large, and a setting is wrong by itself.
        for key, choices in swept(own, sweep if isinstance(sweep, dict) else {}).items():
            for choice in choices if isinstance(choices, list) else ():
                _check_settings(data, path, kind, {**own, key: choice}, own)


def _check_settings(
    data: SuiteData,
    path: KeyPath,
    kind: type[Algorithm],
    settings: Mapping[str, Any],
    own: Mapping[str, Any],
    searched: KeyPath | None = None,
) -> None:
    """Complain of settings that the algorithm cannot take; where they are ``searched``, of what is searched alone."""
    from bakeoff.algos.core.build import parse_config

    try:
        config = parse_config(kind, settings)
        for name in settings:
            value = getattr(config, name, None)
            if searched is None and isinstance(value, Path) and not value.exists():
                data.complain(
                    (*path, name), f'algorithm "{path[1]}": setting "{name}": there is no file {value}; check the path'
                )
    except ConfigError as error:
        for problem in error.problems:
            at = _quoted(problem, settings)
            if searched is not None:
                if at == searched[-1:]:
                    data.complain(searched, f"{'.'.join(map(str, searched))}: {problem}")
                continue
            place = ("sweep", *at) if at and at[0] not in own else (*path, *at)
            data.complain(place, f'algorithm "{path[1]}": {problem}')


def _check_tune(data: SuiteData, algorithms: Any, tune: Any) -> None:
    """Are the labels and settings of a search space there, and do both ends of each range fit?"""
    space = tune.get("space") if isinstance(tune, dict) else None
    contestants = {label: (name, own) for label, name, own in _entries(algorithms, "algorithm")}
    for label, settings in space.items() if isinstance(space, dict) else ():
        if label not in contestants:
            near = did_you_mean(str(label), contestants)
            data.complain(("tune", "space", label), f'tune.space: "{label}" is no label of this suite{near}')
            continue
        name, own = contestants[label]
        try:
            kind = registry.algorithms.load(name)
        except UserError:
            continue  # said where the algorithm stands
        if not _is_algorithm(kind):
            continue  # likewise
        for key, values in settings.items() if isinstance(settings, dict) else ():
            path: KeyPath = ("tune", "space", label, key)
            for problem in _range_problems(values):
                data.complain(path, f"tune.space.{label}.{key}: {problem}")
            for value in _ends(values):
                _check_settings(data, ("tune", "space"), kind, {**own, key: value}, own, path)


def _range_problems(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        low, high = values.get("low"), values.get("high")
        numbers = [end for end in (low, high) if isinstance(end, int | float) and not isinstance(end, bool)]
        if len(numbers) == 2 and not numbers[0] < numbers[1]:
            yield f"low {low} is not below high {high}"
        if values.get("log") is True and numbers and numbers[0] <= 0:
            yield f"low {numbers[0]} has no logarithm; leave out log, or start above 0"


def _ends(values: Any) -> list[Any]:
    if isinstance(values, dict):
        return [values[end] for end in ("low", "high") if isinstance(values.get(end), int | float)]
    return [value for value in values if isinstance(value, Scalar)] if isinstance(values, list) else []


def _check_trackers(data: SuiteData, names: Any, check_tracker: CheckTracker) -> None:
    for index, name in enumerate(names if isinstance(names, list) else ()):
        if isinstance(name, str):
            try:
                check_tracker(name)
            except UserError as error:
                data.complain(("trackers", index), f"trackers: {error}")


def _entries(section: Any, key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Label, registered name and settings of every entry that has the right shape."""
    for label, entry in section.items() if isinstance(section, dict) else ():
        if isinstance(entry, dict) and label != PLACEHOLDER:
            settings = dict(entry)
            name = settings.pop(key, None)
            if name is None or isinstance(name, str):
                yield label, name or label, settings


def _quoted(problem: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The setting that a message is about: the first quoted word, where it is one."""
    found = re.search(r'"([^"]*)"', problem)
    return (found.group(1),) if found and found.group(1) in settings else ()
