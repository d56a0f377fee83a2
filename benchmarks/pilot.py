"""Whether a run folder is a pilot of a suite: the same tasks, contestants and budgets, whatever its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bakeoff.benchmarks.spec import reader
from bakeoff.benchmarks.spec.canonical import canonical, validated
from bakeoff.benchmarks.spec.schema import Suite, select
from bakeoff.errors import NotFoundError, RunFolderError

_COMPARED = {
    "task_name": "another task",
    "task_settings": "other settings of the task",
    "algorithm": "another algorithm",
    "settings": "other settings of the algorithm",
    "budget": "another budget",
}
"""What a pilot's cells must have like the suite's, as attributes of a cell and in words."""


def planned_cells(
    suite: Suite, manifest: Mapping[str, Any], pilot: str, tasks: Sequence[str] = (), only: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The suite's contestants by task, checked against the suite that a pilot ran.

    Args:
        suite: what is to be run.
        manifest: the pilot's.
        pilot: the pilot's folder, for messages.
        tasks: these tasks alone.
        only: these contestants alone.

    Raises:
        NotFoundError: the suite has no such task or label.
        RunFolderError: the pilot's suite has other tasks, contestants, settings or budgets.
    """
    for task in tasks:
        if task not in suite.tasks:
            raise NotFoundError("task in this suite", task, suite.tasks)
    cells = select(suite.cells(), only) if only else suite.cells()
    ours = {(cell.task, cell.label): cell for cell in cells if not tasks or cell.task in tasks}
    theirs = {(cell.task, cell.label): cell for cell in _suite_of(manifest, pilot).cells()}
    name = f'{pilot} ran the suite "{manifest["suite"].get("name")}"'
    for kind, at in (("task", 0), ("contestant", 1)):
        missing = sorted({key[at] for key in ours} - {key[at] for key in theirs})
        if missing:
            raise RunFolderError(
                f"{name}, which has no {kind} {', '.join(missing)}; give a run of this suite as --pilot, or leave "
                f"{'it' if len(missing) == 1 else 'them'} out ({'--only' if at else '--task'})"
            )
    for key, cell in ours.items():
        differing = [what for field, what in _COMPARED.items() if getattr(cell, field) != getattr(theirs[key], field)]
        if differing:
            raise RunFolderError(
                f"{name} with {' and '.join(differing)} for {cell.task} / {cell.label}; give a run of this suite as "
                "--pilot, or change the suite with --set"
            )
    wanted: dict[str, list[str]] = {}
    for task, label in ours:
        wanted.setdefault(task, []).append(label)
    return wanted


def _suite_of(manifest: Mapping[str, Any], pilot: str) -> Suite:
    """The suite that a manifest holds. Names are not looked up: its plugins need not be here."""
    data = (
        reader.from_mapping(manifest["suite"]) if isinstance(manifest.get("suite"), dict) else reader.SuiteData(pilot)
    )
    values = canonical(data)
    suite = None if values is None else validated(data, values)
    if suite is None or data.problems:
        raise RunFolderError(f"{pilot}/manifest.json: holds no readable suite; run the pilot again into another folder")
    return suite
