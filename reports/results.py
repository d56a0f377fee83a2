"""Run folders as users see them: the frames, with a leaderboard, figures and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bakeoff.errors import NotFoundError
from bakeoff.reports.data.results import RunData
from bakeoff.reports.data.store_reader import METERS

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

    def equal_terms(self) -> pd.DataFrame:
        """Contestants at equal KL, at equal cost and at the checkpoint that gold would choose, beside where they ended.

        One row per task, view, level, metric and contestant, at the levels of the report; columns are those of
        :class:`bakeoff.reports.analysis.equal_terms.Reading`.
        """
        from bakeoff.reports.analysis.equal_terms import equal_terms

        return equal_terms(self)

    def at_kl(self, kl: float, metric: str = "proxy", *, task: str | None = None) -> pd.DataFrame:
        """Each contestant's score where it first reached a KL, in nats; see :meth:`equal_terms`."""
        from bakeoff.reports.analysis.equal_terms import at_kl, frame

        return frame(reading for name in self._chosen(task) for reading in at_kl(self, name, kl, metric))

    def at_spend(self, meter: str, spend: float, metric: str | None = None, *, task: str | None = None) -> pd.DataFrame:
        """Each contestant's score for a spend on one meter, by default what ranks the task; see :meth:`equal_terms`."""
        from bakeoff.reports.analysis.equal_terms import at_spend, frame

        if meter not in METERS:
            raise NotFoundError("meter", str(meter), METERS)
        return frame(reading for name in self._chosen(task) for reading in at_spend(self, name, meter, spend, metric))

    def _chosen(self, task: str | None) -> list[str]:
        if task is not None and task not in self.task_names():
            raise NotFoundError("task", task, self.task_names())
        return self.task_names() if task is None else [task]

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
