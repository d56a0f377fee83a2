"""Which cells belong together when several runs are read at once, and the display names of contestants."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bakeoff.reports.data.store_reader import StoredCell, StoredRun


@dataclass(frozen=True)
class Entry:
    """A stored cell under the names that the report uses."""

    run: str
    """Name of its run: the folder's name, made unique."""
    task: str
    """Name of its task; with the run in brackets when two runs mean different things by it."""
    label: str
    """Name of its contestant; with the run in brackets when two runs mean different things by it."""
    cell: StoredCell


def family(label: str) -> str:
    """The label without its point in a sweep: ``ppo`` for ``ppo[kl_coef=0.1]``; a family shares a color."""
    base, bracket, rest = label.partition("[")
    return base + rest.partition("]")[2] if bracket and not base.endswith(" ") else label


def name_entries(runs: Sequence[StoredRun]) -> tuple[list[Entry], dict[str, Mapping[str, Any]]]:
    """Name every cell of every run, and return what is known of each task under its display name.

    Runs are merged where that is sound: the same task (settings, prompts, model, beta, length) keeps one name, and a label keeps
    one name across runs when algorithm, settings and budget agree and no seed occurs twice. What a plugin file brought is the
    same where the file's text is. Anything else gets its run's name in brackets, so nothing is averaged that differs.
    """
    names = _unique([run.name for run in runs])
    task_names = _name_tasks(runs, names)
    infos: dict[str, Mapping[str, Any]] = {}
    for run, name in zip(runs, names, strict=True):
        for cell in run.cells:
            infos.setdefault(task_names[name, cell.task], run.tasks.get(cell.task, {}))
    groups: dict[tuple[str, str], dict[str, list[tuple[StoredRun, StoredCell]]]] = {}
    for run, name in zip(runs, names, strict=True):
        for cell in run.cells:
            groups.setdefault((task_names[name, cell.task], cell.label), {}).setdefault(name, []).append((run, cell))
    clashing = {label for (_, label), by_run in groups.items() if not _mergeable(by_run)}
    entries = [
        Entry(
            name, task_names[name, cell.task], f"{cell.label} [{name}]" if cell.label in clashing else cell.label, cell
        )
        for run, name in zip(runs, names, strict=True)
        for cell in run.cells
    ]
    return entries, infos


def _name_tasks(runs: Sequence[StoredRun], names: Sequence[str]) -> dict[tuple[str, str], str]:
    identities: dict[str, set[str]] = {}
    for run in runs:
        for cell in run.cells:
            identities.setdefault(cell.task, set()).add(_task_identity(run, cell.task))
    return {
        (name, cell.task): f"{cell.task} [{name}]" if len(identities[cell.task]) > 1 else cell.task
        for run, name in zip(runs, names, strict=True)
        for cell in run.cells
    }


def _task_identity(run: StoredRun, task: str) -> str:
    info = run.tasks.get(task, {})
    config: Mapping[str, Any] = next((cell.config for cell in run.cells if cell.task == task and cell.config), {})
    settings = config.get("task_settings")
    facts = [settings, *(info.get(key) for key in ("kl_coef", "max_new_tokens", "proxy", "gold", "model", "inputs"))]
    facts.append(_brought(run, "tasks", [config.get("task_name")]))
    facts.append(_brought(run, "rewards", list(_words(settings))))
    return json.dumps(facts, sort_keys=True, default=str)


def _brought(run: StoredRun, kind: str, names: Sequence[Any]) -> list[str]:
    """Checksums of the run's plugin files that registered one of the names."""
    found = []
    for plugin in run.manifest.get("plugins") or ():
        brought = plugin.get("names") if isinstance(plugin, dict) else None
        if isinstance(brought, dict) and any(name in brought.get(kind, ()) for name in names):
            found.append(str(plugin.get("sha256")))
    return sorted(found)


def _words(value: Any) -> Iterator[str]:
    """Every text in settings, however deep: a reward may be named anywhere in a composition."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _words(part)


def _mergeable(by_run: Mapping[str, Sequence[tuple[StoredRun, StoredCell]]]) -> bool:
    if len(by_run) == 1:
        return True
    cells = [cell for group in by_run.values() for cell in group]
    identities = {
        json.dumps(
            [
                cell.algorithm,
                cell.config.get("settings"),
                cell.config.get("budget"),
                _brought(run, "algorithms", [cell.algorithm]),
            ],
            sort_keys=True,
            default=str,
        )
        for run, cell in cells
        if cell.config
    }
    return len(identities) <= 1 and len({cell.seed for _, cell in cells}) == len(cells)


def _unique(names: Sequence[str]) -> list[str]:
    unique: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        free = (other for other in numbered if other not in names and other not in unique)
        unique.append(next(free) if name in unique else name)
    return unique
