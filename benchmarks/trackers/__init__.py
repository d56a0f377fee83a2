"""Trackers show training while it runs, besides the run folder: TensorBoard, Weights & Biases, or your own.

A tracker gets what is written to ``metrics.jsonl``. It can neither change a number nor fail a cell.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from bakeoff import plain_files
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.envs.meter import METERS as METERS
from bakeoff.errors import UserError
from bakeoff.names import did_you_mean
from bakeoff.seeding import untouched_global_randomness

BUILT_IN = {
    "tensorboard": "bakeoff.benchmarks.trackers.tensorboard:TensorBoard",
    "wandb": "bakeoff.benchmarks.trackers.wandb:WandB",
}
"""Names to classes."""


@dataclass(frozen=True)
class TrackedCell:
    """The cell whose numbers a tracker gets."""

    suite: str
    """The suite's name."""
    path: str
    """``task/label/seed-k``: unique within a run."""
    config: Mapping[str, Any]
    """Its settings, as ``config.json`` has them."""
    run: str = ""
    """Identifies the run among all others."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any], path: str, config: Mapping[str, Any]) -> TrackedCell:
        """A cell of the run with that manifest, which may be damaged."""
        suite = manifest.get("suite")
        name = str(suite.get("name", "bakeoff")) if isinstance(suite, dict) else "bakeoff"
        return cls(name, path, config, str(manifest.get("id") or manifest.get("created")))


class Tracker(Protocol):
    """What a tracker has to offer; its constructor takes ``folder``, ``cell`` and ``step``, as below."""

    def __init__(self, folder: Path, cell: TrackedCell, step: int) -> None:
        """Begin.

        Args:
            folder: where to write; the run's own ``trackers/<name>``.
            cell: whose numbers will come.
            step: updates so far: above 0 where a cell resumes from a checkpoint; later rows are logged again.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers: ``train/NAME``, ``eval/NAME`` and ``meter/NAME``; all are finite."""

    def close(self) -> None:
        """Flush and end."""


def tracker_class(name: str) -> Any:
    """The class behind a tracker's name, or behind ``module:Class``.

    Raises:
        UserError: there is none.
    """
    module, colon, attribute = BUILT_IN.get(name, name).partition(":")
    if not colon:
        known = ", ".join(BUILT_IN)
        raise UserError(f'no tracker "{name}"{did_you_mean(name, BUILT_IN)}; use {known}, or module:Class of your own')
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # any that the module raises
        raise UserError(f'tracker "{name}" cannot be loaded: {type(error).__name__}: {error}') from error


def check(name: str) -> None:
    """Check that a tracker can be used here.

    Raises:
        UserError: it does not exist, or what it needs is not installed.
    """
    kind = tracker_class(name)
    if hasattr(kind, "check"):
        try:
            kind.check()
        except UserError:
            raise
        except Exception as error:
            raise UserError(f'tracker "{name}" cannot be used: {type(error).__name__}: {error}') from error


class Tracking:
    """All trackers of one cell; one that raises is left out from then on, with a line in the cell's log."""

    def __init__(self, names: Sequence[str], folder: Path, cell: Cell) -> None:
        """Args:
        names: of the trackers.
        folder: the cell's folder.
        cell: which cell.
        """
        self._names, self._folder, self._cell = list(dict.fromkeys(names)), folder, cell
        self._trackers: dict[str, Any] = {}

    def start(self, step: int) -> None:
        """Begin; the cell's ``config.json`` is there."""
        if not self._names:
            return
        relative = self._cell.path.removeprefix("cells/")
        run = self._folder.absolute()
        for _ in Path(self._cell.path).parts:
            run = run.parent
        manifest = atomic_files.read_json(run / "manifest.json") or {}
        cell = TrackedCell.of(manifest, relative, atomic_files.read_json(self._folder / "config.json") or {})
        with untouched_global_randomness():
            for name in self._names:
                home = run / "trackers" / name.replace(":", "-")
                self._attempt(name, partial(self._begin, name, home, cell, step))

    def _begin(self, name: str, home: Path, cell: TrackedCell, step: int) -> None:
        plain_files.make_folder(home.parent)
        plain_files.make_folder(home)
        self._trackers[name] = tracker_class(name)(home, cell, step)

    def log(self, step: int, phase: str, meter: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Log a row of ``metrics.jsonl``."""
        if not self._trackers:
            return
        values = flat(phase, meter, metrics)
        with untouched_global_randomness():
            for name, tracker in list(self._trackers.items()):
                self._attempt(name, partial(tracker.log, step, values))

    def close(self) -> None:
        """Close all trackers."""
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, tracker.close)
        self._trackers.clear()

    def _attempt(self, name: str, action: Any) -> None:
        try:
            action()
        except (Exception, SystemExit) as error:
            self._trackers.pop(name, None)
            print(f"tracker {name} is left out from here on: {type(error).__name__}: {error}", file=sys.stderr)


def flat(phase: str, meter: Mapping[str, float], metrics: Mapping[str, float | None]) -> dict[str, float]:
    """A row's numbers under the names that trackers use; what is not finite is left out."""
    values = {f"meter/{name}": float(value) for name, value in meter.items()}
    for name, value in metrics.items():
        if value is not None and value - value == 0:
            values[f"{phase}/{name}"] = float(value)
    return values
