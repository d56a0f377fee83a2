"""How the text changed during training: length, entropy and diversity against KL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bakeoff.reports.analysis.gold_fits import of_equal_length
from bakeoff.reports.data.entries import family
from bakeoff.reports.figures.curves import METRIC_NAMES, title_of
from bakeoff.reports.figures.labels import label_points, one_a_family
from bakeoff.reports.figures.style import FigureStyle, label_text

if TYPE_CHECKING:
    import pandas as pd

    from bakeoff.reports.data.results import RunData

DRIFTING = ("length", "entropy", "distinct_2")

MOST_NAMES = 5
"""Most names beside the points of the first panel."""
MOST_POINTS = 60
"""Most points of a line; more are indistinguishable in a panel of this width."""


def thinned(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evenly chosen rows of a path, shape (K, 2), the first and the last among them."""
    if len(path) <= MOST_POINTS:
        return path
    return np.asarray(path[np.unique(np.linspace(0, len(path) - 1, MOST_POINTS).round().astype(int))])


def mean_along(rows: pd.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    """Means over seeds by the number of the evaluation, shape (K, columns); a seed that stopped early stays at its last."""
    seeds = rows.groupby(["run", "seed"], sort=False, observed=True)
    paths = of_equal_length([seed[columns].to_numpy(dtype=np.float64) for _, seed in seeds])
    return np.asarray(paths.mean(0))


def draw_drift(
    axes: Axes, results: RunData, task: str, styles: FigureStyle, *, metrics: tuple[str, ...] = DRIFTING
) -> bool:
    """A small panel for each metric: mean over seeds along training, against KL; the square is where training ended."""
    rows = results.evaluations[results.evaluations["task"] == task]
    kl, _ = title_of("kl", rows)
    shown = [name for name in metrics if name in rows and rows[name].notna().any()]
    if kl not in rows or not shown:
        return False
    axes.set_axis_off()
    for column, metric in enumerate(shown):
        width = (1 - 0.12 * (len(shown) - 1)) / len(shown)
        panel = axes.inset_axes((column * (width + 0.12), 0.08, width, 0.82))
        named = []
        for label in results.labels(task):
            mine = rows[rows["label"] == label].dropna(subset=[kl, metric])
            if mine.empty:
                continue
            if label in results.not_learning:
                mine = mine.groupby(["run", "seed"], sort=False, observed=True).tail(1)
            path = thinned(mean_along(mine, [kl, metric]))
            series = styles[label]
            panel.plot(path[:, 0], path[:, 1], color=series.color, lw=1.5, ls=series.dash)
            panel.scatter(path[-1:, 0], path[-1:, 1], color=series.color, marker=series.marker, s=30, zorder=3)
            named.append((label, float(path[-1, 0]), float(path[-1, 1]), series.color))
        panel.set_title(METRIC_NAMES.get(metric, metric).partition(" (")[0], loc="left", fontsize=9.5)
        panel.set_xlabel("KL (nats)", fontsize=9)
        panel.margins(x=0.1, y=0.15)
        if column == 0:  # colors and markers carry over to the others
            shown_names = one_a_family(named)
            if len(shown_names) <= MOST_NAMES:
                label_points(panel, shown_names)
            else:
                _key_below(axes, [label for label, *_ in shown_names], styles)
    return True


def _key_below(axes: Axes, labels: Sequence[str], styles: FigureStyle) -> None:
    """Names under the panels, which are too small for more than a few."""
    series = {
        family(label): series for label, series in styles.series.items()
    } | styles.series  # a sweep has its family's name
    handles = [
        Line2D(
            [], [], color=series[label].color, marker=series[label].marker, ls=series[label].dash, lw=1.5, markersize=5
        )
        for label in labels
    ]
    axes.legend(
        handles,
        [label_text(label, 22) for label in labels],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        handlelength=2.2,
        columnspacing=1.2,
    )
