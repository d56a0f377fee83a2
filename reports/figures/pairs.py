"""Contestant against contestant: win rates over the reference, chances of improvement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bakeoff.reports.figures.style import BASELINE, FigureStyle, fit_height, label_text
from bakeoff.reports.statistics.estimates import probability_of_improvement
from bakeoff.reports.statistics.head_to_head import head_to_head
from bakeoff.reports.statistics.leaderboard import generator, interval, seed_scores

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

ON_COLOR = "#1c1b1f"
"""Text on colored squares: dark in both themes, because the squares keep their colors."""


def draw_win_rate(axes: Axes, results: RunData, task: str, styles: FigureStyle) -> bool:
    """Mean over seeds with its 95 % bootstrap interval, each seed a faint point; the dashed line is a tie."""
    scores = {label: seed_scores(results, task, label, "win_rate") for label in results.labels(task)}
    ranked = sorted((label for label in scores if len(scores[label])), key=lambda label: -scores[label].mean())
    if not ranked:
        return False
    for place, label in enumerate(ranked):
        values, series = scores[label], styles[label]
        mean = interval(values, "mean", "win_rate", task, label)
        axes.scatter(values, np.full(len(values), place), color=series.color, s=18, alpha=0.35, lw=0)
        if np.isfinite(mean.low):
            axes.plot([mean.low, mean.high], [place, place], color=series.color, lw=2.2, solid_capstyle="round")
        axes.scatter([mean.value], [place], color=series.color, marker=series.marker, s=52, zorder=3)
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
    fit_height(axes, len(ranked))
    return True


def draw_improvement(
    axes: Axes, results: RunData, task: str, styles: FigureStyle, *, metric: str | None = None
) -> bool:
    """Probability that a run of the row's contestant beats a run of the column's, from the seeds of both.

    Contestants with one seed are left out: of one seed each, it could only be 0, 0.5 or 1.
    """
    metric = metric or results.primary_metric(task)
    scores = {label: seed_scores(results, task, label, metric) for label in results.labels(task)}
    ranked = sorted((label for label in scores if len(scores[label]) > 1), key=lambda label: -scores[label].mean())
    if len(ranked) < 2:
        return False
    table = np.full((len(ranked), len(ranked)), np.nan)
    for i, row in enumerate(ranked):
        for j, column in enumerate(ranked):
            if i != j:
                rng = generator("improvement", task, row, column)
                table[i, j] = probability_of_improvement([scores[row]], [scores[column]], rng=rng, resamples=1).value
    texts = np.array([["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in table])
    _draw_matrix(axes, table, texts, ranked)
    axes.set_title("chance that row beats column", loc="left")
    return True


def draw_win_rate_matrix(axes: Axes, results: RunData, task: str, styles: FigureStyle) -> bool:
    """How often the row's answer beats the column's on the same prompts, ties one half, with its standard error."""
    found = head_to_head(results, task)
    if found is None:
        return False
    cells = [_with_error(rate, error) for rate, error in zip(found.rates.flat, found.errors.flat, strict=True)]
    texts = np.array(cells).reshape(found.rates.shape)
    _draw_matrix(axes, found.rates, texts, found.labels, row_height=0.5)
    axes.set_title(f"prompts won by the row ({found.judge})", loc="left")
    return True


def _with_error(rate: float, error: float) -> str:
    if np.isnan(rate):
        return ""
    return f"{rate:.2f}" + ("" if np.isnan(error) else f"\n± {error:.2f}")


def _draw_matrix(
    axes: Axes, table: NDArray[np.float64], texts: Any, labels: Sequence[str], row_height: float = 0.42
) -> None:
    """A square of shares from 0 to 1: blue where the row is ahead, orange where it is behind."""
    many = len(labels) > 12
    names = [label_text(label, 20) for label in labels]
    sns.heatmap(
        table,
        ax=axes,
        vmin=0,
        vmax=1,
        cmap=sns.diverging_palette(30, 245, s=75, l=62, as_cmap=True),
        annot=False if many else texts,
        fmt="",
        annot_kws={"fontsize": 8.5 if len(labels) < 8 else 6.5, "color": ON_COLOR},
        cbar=False,
        linewidths=0.5 if many else 1.5,
        linecolor="#ffffff",
        xticklabels=names,
        yticklabels=names,
    )
    axes.tick_params(axis="y", rotation=0, length=0)
    axes.tick_params(axis="x", rotation=0 if len(labels) < 4 else 30 if len(labels) < 7 else 90, length=0)
    if len(labels) > 25:
        axes.tick_params(labelsize=5.5)
    axes.grid(False)
    fit_height(axes, len(labels), row_height)
