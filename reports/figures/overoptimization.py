"""Gold against proxy reward over the square root of KL: where the two part, the proxy is being exploited.

After Gao, Schulman and Hilton 2023. KL is not a fair measure of pressure across methods, so curves of different
contestants are not to be read against each other; the report says so beside the figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bakeoff.reports.analysis.gold_curves import GoldCurve, gold_curves
from bakeoff.reports.analysis.gold_fits import GOOD_ENOUGH
from bakeoff.reports.figures.curves import title_of
from bakeoff.reports.figures.drift import mean_along, thinned
from bakeoff.reports.figures.labels import label_points, one_a_family
from bakeoff.reports.figures.style import FigureStyle

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


def draw_overoptimization(axes: Axes, results: RunData, task: str, styles: FigureStyle) -> bool:
    """Means over seeds along training (over n for best of n): gold a full line, proxy a dotted one.

    The fitted form is a thin dashed line where it describes the data; a ring marks the best mean gold.
    """
    rows = results.evaluations[results.evaluations["task"] == task]
    kl, _ = title_of("kl", rows)
    if kl not in rows or not {"gold", "proxy"} <= set(rows) or not rows["gold"].notna().any():
        return False
    ends = []
    for curve in gold_curves(results, task):
        path = _mean_path(results, task, curve, kl)
        if len(path) == 0:
            continue
        series = styles[curve.labels[0]]
        best_distance, _, best_gold = path[int(path[:, 2].argmax())]
        distance, proxy, gold = thinned(path).T
        axes.plot(distance, proxy, color=series.color, lw=1.3, ls=(0, (1.5, 1.2)))
        every = max(1, len(gold) // 15)
        axes.plot(distance, gold, color=series.color, lw=2, marker=series.marker, ms=3.5, markevery=every)
        axes.plot(best_distance, best_gold, "o", ms=9, mfc="none", mec=series.color, mew=1.2)
        if curve.fit is not None and curve.fit.r_squared >= GOOD_ENOUGH:
            grid = np.linspace(0, distance.max(), 60)
            axes.plot(grid, gold[0] + curve.fit.fit.at(grid), color=series.color, lw=0.9, alpha=0.7, ls=(0, (6, 3)))
        ends.append((curve.name, float(distance[-1]), float(gold[-1]), series.color))
    axes.set_xlabel("square root of KL to the reference")
    axes.set_title("reward: gold (full line), proxy (dotted)", loc="left")
    axes.set_xlim(0, max(end[1] for end in ends) * 1.15 if ends else 1)
    label_points(axes, one_a_family(ends))
    return bool(ends)


def _mean_path(results: RunData, task: str, curve: GoldCurve, kl: str) -> NDArray[np.float64]:
    """Square root of KL, proxy and gold by the number of the evaluation, means over seeds, shape (K, 3)."""
    rows = results.evaluations
    mine = rows[(rows["task"] == task) & rows["label"].isin(curve.labels)].dropna(subset=[kl, "gold", "proxy"])
    if set(curve.labels) <= results.not_learning:
        cells = mine.groupby(["label", "seed"], sort=False, observed=True)
        ends = cells.last().groupby("label", sort=False, observed=True)[[kl, "proxy", "gold"]].mean().sort_values(kl)
        path = np.vstack([cells.first()[[kl, "proxy", "gold"]].mean().to_numpy(), ends.to_numpy()])
    else:
        path = mean_along(mine, [kl, "proxy", "gold"])
    path = path.astype(np.float64)
    path[:, 0] = np.sqrt(np.maximum(path[:, 0], 0))
    return path
