"""What each contestant gained on each prompt: a mean can hide that half of the prompts got worse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from bakeoff.reports.figures.curves import METRIC_NAMES
from bakeoff.reports.figures.style import BASELINE, FigureStyle, fit_height, label_text
from bakeoff.reports.statistics.head_to_head import prompt_gains
from bakeoff.reports.statistics.leaderboard import generator, interval

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


def draw_gains(axes: Axes, results: RunData, task: str, styles: FigureStyle, *, metric: str = "proxy") -> bool:
    """A dot per prompt (mean over seeds), the mean over prompts with its 95 % bootstrap interval, and how many went up."""
    gains = prompt_gains(results, task, metric)
    by_label = {
        str(label): rows["gain"].to_numpy(dtype=np.float64) for label, rows in gains.groupby("label", observed=True)
    }
    ranked = sorted(by_label, key=lambda label: -by_label[label].mean())
    if not ranked:
        return False
    jitter = generator("gains", task)
    for place, label in enumerate(ranked):
        values, series = by_label[label], styles[label]
        heights = place + 0.26 * jitter.uniform(-1, 1, len(values))
        axes.scatter(values, heights, color=series.color, s=15, alpha=0.45, lw=0)
        mean = interval(values, "mean", "gains", task, label)
        if np.isfinite(mean.low):
            axes.plot([mean.low, mean.high], [place, place], color=series.color, lw=2.2, solid_capstyle="round")
        axes.scatter(
            [mean.value], [place], color=series.color, marker=series.marker, s=52, zorder=3, edgecolors="white"
        )
        risen = f"{int((values > 0).sum())} of {len(values)} up"
        axes.annotate(
            risen, (1.0, place), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
    axes.axvline(0, color=BASELINE, lw=1, ls=(0, (3, 2)))
    axes.set_yticks(range(len(ranked)), [label_text(label, 26) for label in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlabel("above the reference's answer; one dot per prompt")
    axes.set_title(f"gain on each prompt: {METRIC_NAMES.get(metric, metric)}", loc="left")
    fit_height(axes, len(ranked))
    return True
