"""Contestant against contestant: win rates over the reference, chances of improvement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from bakeoff.reports.figures.style import BASELINE, Look, label_text, set_height
from bakeoff.reports.leaderboard import generator, interval, seed_scores
from bakeoff.reports.statistics import probability_of_improvement

if TYPE_CHECKING:
    from bakeoff.reports.results import Results


def draw_win_rate(axes: Axes, results: Results, task: str, look: Look) -> bool:
    """Mean over seeds with its 95 % bootstrap interval, each seed a faint point; the dashed line is a tie."""
    scores = {label: seed_scores(results, task, label, "win_rate") for label in results.labels(task)}
    ranked = sorted((label for label in scores if len(scores[label])), key=lambda label: -scores[label].mean())
    if not ranked:
        return False
    for place, label in enumerate(ranked):
        values, mark = scores[label], look[label]
        mean = interval(values, "mean", "win_rate", task, label)
        axes.scatter(values, np.full(len(values), place), color=mark.color, s=18, alpha=0.35, lw=0)
        if np.isfinite(mean.low):
            axes.plot([mean.low, mean.high], [place, place], color=mark.color, lw=2.2, solid_capstyle="round")
        axes.scatter([mean.value], [place], color=mark.color, marker=mark.marker, s=52, zorder=3)
        right = max(float(values.max()), mean.value)
        axes.annotate(
            f"{mean.value:.2f}", (right, place), (8, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.axvline(0.5, color=BASELINE, lw=1, ls=(0, (3, 2)))
    axes.set_yticks(range(len(ranked)), [label_text(label, 26) for label in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.7)
    axes.set_xlim(min(0.4, *(float(scores[label].min()) for label in ranked)) - 0.03, 1.1)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.001])
    axes.set_title("win rate over the reference", loc="left")
    _fit_height(axes, len(ranked))
    return True


def draw_improvement(axes: Axes, results: Results, task: str, look: Look, *, metric: str | None = None) -> bool:
    """Probability that a run of the row's contestant beats a run of the column's, from the seeds of both."""
    metric = metric or results.primary_metric(task)
    scores = {label: seed_scores(results, task, label, metric) for label in results.labels(task)}
    ranked = sorted((label for label in scores if len(scores[label])), key=lambda label: -scores[label].mean())
    if len(ranked) < 2:
        return False
    table = np.full((len(ranked), len(ranked)), np.nan)
    for i, row in enumerate(ranked):
        for j, column in enumerate(ranked):
            if i != j:
                rng = generator("improvement", task, row, column)
                table[i, j] = probability_of_improvement([scores[row]], [scores[column]], rng=rng, resamples=1).value
    names = [label_text(label, 20) for label in ranked]
    sns.heatmap(
        table,
        ax=axes,
        vmin=0,
        vmax=1,
        cmap=sns.diverging_palette(30, 245, s=75, l=62, as_cmap=True),
        annot=len(ranked) <= 9,
        fmt=".2f",
        annot_kws={"fontsize": 8.5, "color": "#1b1b1f"},
        cbar=False,
        linewidths=1.5,
        linecolor="#ffffff",
        xticklabels=names,
        yticklabels=names,
    )
    axes.tick_params(axis="y", rotation=0, length=0)
    axes.tick_params(axis="x", rotation=0 if len(ranked) < 4 else 30 if len(ranked) < 7 else 90, length=0)
    axes.grid(False)
    axes.set_title("chance that row beats column", loc="left")
    _fit_height(axes, len(ranked))
    return True


def _fit_height(axes: Axes, rows: int) -> None:
    set_height(axes, min(9.0, max(2.2, 0.42 * rows + 1.3)))
