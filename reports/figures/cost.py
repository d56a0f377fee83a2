"""What each contestant spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from bakeoff.reports.data.text import count
from bakeoff.reports.figures.curves import METER_NAMES
from bakeoff.reports.figures.style import INK, FigureStyle, label_text, set_height

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


def draw_cost(
    axes: Axes, results: RunData, task: str, styles: FigureStyle, *, meters: tuple[str, ...] | None = None
) -> bool:
    """A column of bars per meter, a bar per contestant: the mean over seeds, a whisker from least to most."""
    rows = results.final[results.final["task"] == task]
    shown = [meter for meter in meters or METER_NAMES if meter in rows and float(rows[meter].max() or 0) > 0]
    labels = [label for label in results.labels(task) if (rows["label"] == label).any()]
    if not shown or not labels:
        return False
    axes.set_axis_off()
    set_height(axes, max(1.8, 0.3 * len(labels) + 0.8))
    for column, meter in enumerate(shown):
        left, width = column / len(shown), 1 / len(shown)
        bars = axes.inset_axes((left + 0.01, 0.02, width - 0.04, 0.86))
        largest = float(rows[meter].max())
        for place, label in enumerate(labels):
            spent = rows.loc[rows["label"] == label, meter].dropna().to_numpy(dtype=np.float64)
            if not len(spent):
                continue
            mean = float(spent.mean())
            bars.barh(place, mean, color=styles[label].color, height=0.62)
            if np.ptp(spent) > 0.01 * largest:
                bars.plot([spent.min(), spent.max()], [place, place], color=INK, lw=1)
            bars.annotate(
                count(mean), (float(spent.max()), place), (4, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        bars.set_xlim(0, largest * 1.45)
        bars.set_ylim(len(labels) - 0.5, -0.5)
        bars.set_xticks([])
        bars.grid(False)
        bars.spines["bottom"].set_visible(False)
        bars.set_yticks(
            range(len(labels)), [label_text(label, 22) for label in labels] if column == 0 else [""] * len(labels)
        )
        bars.tick_params(axis="y", length=0)
        bars.set_title(METER_NAMES[meter].partition(" of ")[0].replace(" ", "\n"), loc="left", fontsize=9)
    return True
