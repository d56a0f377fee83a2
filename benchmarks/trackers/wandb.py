"""Weights & Biases, offline unless ``WANDB_MODE=online`` is set.

``wandb sync RUN/trackers/wandb/wandb/offline-run-*`` sends what was written offline.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.extras import optional

if TYPE_CHECKING:
    from bakeoff.benchmarks.trackers import TrackedCell


def identity_of(folder: Path, cell: TrackedCell) -> str:
    """The id of a cell's W&B run: the same on another node or after a move; an export has another id than the live run."""
    return hashlib.sha256(f"{cell.run}/{folder.parent.name}/{cell.path}".encode()).hexdigest()[:16]


class WandB:
    """One W&B run per cell, in a project named after the suite, grouped by task and contestant."""

    @staticmethod
    def check() -> None:
        """Check that W&B is installed."""
        optional("wandb", "wandb", "the tracker wandb")

    def __init__(self, folder: Path, cell: TrackedCell, step: int) -> None:
        """Begin; see :class:`~bakeoff.benchmarks.trackers.Tracker`."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb: Any = optional("wandb", "wandb", "the tracker wandb")
        mode = os.environ.get("WANDB_MODE", "offline")
        identity = identity_of(folder, cell)
        task, label, seed = cell.path.split("/")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", cell.suite),
            id=identity,
            name=f"{label} {seed} on {task}",
            group=f"{task}/{label}",
            dir=str(folder),
            mode=mode,
            config=dict(cell.config),
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers; W&B itself drops steps that it has already."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Flush and end."""
        self._run.finish()
