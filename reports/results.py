"""Run folders as users see them: the frames, with a leaderboard, figures and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bakeoff.reports.data.results import RunData

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Results(RunData):
    """What one or more runs measured, read from their folders.

    The frames (:attr:`frame`, :attr:`final`, :attr:`cells` ...) are those of :class:`~bakeoff.reports.data.results.RunData`.
    In a notebook the object shows its leaderboard.
    """

    def leaderboard(self) -> pd.DataFrame:
        """One row per task and contestant, best first; see :func:`bakeoff.reports.statistics.leaderboard.leaderboard`."""
        from bakeoff.reports.statistics.leaderboard import leaderboard

        return leaderboard(self)

    def report(self, out: Path | str | None = None) -> Path:
        """Write the report and return the path of its ``index.html``; see :func:`bakeoff.reports.write_report`."""
        from bakeoff.reports.page.report import write_report

        return write_report(self, out)

    def plot(
        self, kind: str = "learning_curves", *, task: str | None = None, style: Any = None, **options: Any
    ) -> Figure:
        """A matplotlib figure with one panel per task; ``kind`` as in ``bakeoff plot --kind``.

        ``style`` is any matplotlib style; other options depend on the kind. See :func:`bakeoff.reports.figures.plot`.
        """
        from bakeoff.reports.figures import plot

        return plot(self, kind, task=task, style=style, **options)

    def _repr_html_(self) -> str:
        from bakeoff.reports.page.html import leaderboard_html

        return leaderboard_html(self)
