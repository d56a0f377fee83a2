"""TensorBoard: ``tensorboard --logdir RUN/trackers/tensorboard``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bakeoff.extras import optional

if TYPE_CHECKING:
    from bakeoff.benchmarks.trackers import TrackedCell


class TensorBoard:
    """One event folder per cell; the horizontal axis counts updates."""

    @staticmethod
    def check() -> None:
        """Check that TensorBoard is installed."""
        optional("tensorboard", "tensorboard", "the tracker tensorboard")

    def __init__(self, folder: Path, cell: TrackedCell, step: int) -> None:
        """Begin; see :class:`~bakeoff.benchmarks.trackers.Tracker`."""
        self.check()
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted attempt wrote beyond the checkpoint is hidden: it is logged again.
        self._writer = SummaryWriter(str(folder / cell.path), purge_step=step + 1 if step else 0)
        if step == 0:
            text = "```json\n" + json.dumps(cell.config, indent=1) + "\n```"
            self._writer.add_text("config", text, 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and end."""
        self._writer.close()
