"""Gold against proxy reward over the square root of KL: where the two part, the proxy is being exploited.

After Gao, Schulman and Hilton 2023. KL is not a fair measure of pressure across methods, so curves of different
contestants are not to be read against each other; the report says so beside the figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from bakeoff.reports.figures.curves import title_of
from bakeoff.reports.figures.labels import label_points, one_a_family
from bakeoff.reports.figures.style import Look
from bakeoff.reports.overoptimisation import fit_gold

if TYPE_CHECKING:
    from bakeoff.reports.results import Results


def draw_overoptimisation(axes: Axes, results: Results, task: str, look: Look) -> bool:
    """Means over seeds along training: gold a full line, proxy a dotted one, the fitted gold a thin dashed one.

    The fit is Gao et al.'s form for reinforcement learning, drawn where at least four evaluations left the reference.
    """
    rows = results.evaluations[results.evaluations["task"] == task]
    kl, _ = title_of("kl", rows)
    if kl not in rows or not {"gold", "proxy"} <= set(rows) or not rows["gold"].notna().any():
        return False
    ends = []
    for label in results.labels(task):
        mine = rows[rows["label"] == label].dropna(subset=[kl, "gold", "proxy"])
        if mine.empty:
            continue
        turn = mine.groupby(["run", "seed"], sort=False, observed=True).cumcount()
        path = mine.groupby(turn)[[kl, "gold", "proxy"]].mean().to_numpy(dtype=np.float64)
        distance = np.sqrt(np.maximum(path[:, 0], 0))
        color = look[label].color
        axes.plot(distance, path[:, 2], color=color, lw=1.3, ls=(0, (1.5, 1.2)))
        axes.plot(distance, path[:, 1], color=color, lw=2, marker=look[label].marker, ms=3.5)
        if np.sum(distance > 0) >= 4 and distance.max() > 0:
            fit = fit_gold(distance, path[:, 1] - path[0, 1], "logarithmic")
            grid = np.linspace(0, distance.max(), 200)
            axes.plot(grid, path[0, 1] + fit.at(grid), color=color, lw=0.9, alpha=0.7, ls=(0, (6, 3)))
        ends.append((label, float(distance[-1]), float(path[-1, 1]), color))
    axes.set_xlabel("square root of KL to the reference")
    axes.set_title("reward: gold (full line), proxy (dotted)", loc="left")
    axes.set_xlim(0, max(end[1] for end in ends) * 1.15 if ends else 1)
    label_points(axes, one_a_family(ends))
    return bool(ends)
