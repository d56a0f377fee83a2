"""Score against what was spent, and performance profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from bakeoff.reports.data.text import count
from bakeoff.reports.figures.labels import label_line_ends
from bakeoff.reports.figures.style import FigureStyle, set_height
from bakeoff.reports.statistics.estimates import performance_profile
from bakeoff.reports.statistics.leaderboard import best_column, generator, seed_scores

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

METRIC_NAMES = {
    "normalized_score": "normalized score (0 reference, 1 optimum)",
    "objective": "objective: proxy − β · KL",
    "exact_objective": "exact objective: reward − β · KL",
    "proxy": "proxy reward",
    "exact_reward": "exact reward",
    "gold": "gold reward",
    "kl": "KL to the reference (nats per completion)",
    "exact_kl": "exact KL to the reference (nats per completion)",
    "win_rate": "win rate over the reference",
    "entropy": "entropy (nats per token)",
    "length": "length (tokens)",
    "distinct_1": "distinct words",
    "distinct_2": "distinct word pairs",
    "repetition": "repetition",
    "reference_nll": "negative log-likelihood under the reference (nats per token)",
}
"""Axis titles; a metric that is not listed keeps its own name."""
METER_NAMES = {
    "reward_queries": "reward queries",
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
    "seconds": "seconds of collecting and learning",
}


def draw_learning_curves(
    axes: Axes,
    results: RunData,
    task: str,
    styles: FigureStyle,
    *,
    metric: str | None = None,
    meter: str = "reward_queries",
) -> bool:
    """Mean over seeds with its 95 % bootstrap band, each seed a faint line; contestants that do not learn are level
    lines.
    """
    metric = metric or results.primary_metric(task)
    rows = results.evaluations[results.evaluations["task"] == task]
    if metric not in rows or not rows[metric].notna().any():
        return False
    widest = float(rows[meter].max()) or 1.0
    ends = []
    for label in results.labels(task):
        series = styles[label]
        seeds = [
            run.dropna(subset=[metric, meter]).sort_values(meter, kind="stable")
            for _, run in rows[rows["label"] == label].groupby(["run", "seed"], sort=False, observed=True)
        ]
        seeds = [run for run in seeds if len(run)]
        if not seeds:
            continue
        if label in results.not_learning or all(float(np.ptp(run[meter])) == 0 for run in seeds):
            finals = np.array([run[metric].iloc[-1] for run in seeds], dtype=np.float64)
            grid, values = np.array([0.0, widest]), np.repeat(finals[:, None], 2, axis=1)
            axes.plot(grid, values.mean(axis=0), color=series.color, lw=1.6, ls=(0, (4, 2)))
        else:
            grid, values = on_common_grid(seeds, meter, metric)
            for line in values if 1 < len(values) <= 5 else []:
                axes.plot(grid, line, color=series.color, lw=0.7, alpha=0.35)
            axes.plot(grid, values.mean(axis=0), color=series.color, lw=2, ls=series.dash)
        if len(values) > 1:
            low, high = band(values, task, label, metric)
            axes.fill_between(grid, low, high, color=series.color, alpha=0.16, lw=0)
        ends.append((label, float(grid[-1]), float(values.mean(axis=0)[-1]), series.color))
    set_height(axes, max(3.6, 0.19 * len(ends) + 0.8))
    axes.set_xlim(0, widest)
    axes.margins(y=0.08)
    axes.set_xlabel(METER_NAMES.get(meter, meter))
    axes.set_title(METRIC_NAMES.get(metric, metric), loc="left")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= widest * 1.001]
    axes.set_xticks(ticks)
    label_line_ends(axes, ends)
    return bool(ends)


def on_common_grid(
    seeds: list[pd.DataFrame], meter: str, metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every seed's curve at the same spendings, shapes (G,) and (seeds, G): linear between evaluations, no
    extrapolation. Seeds that have no spending in common (of seconds, say) stay level outside their own range.
    """
    low = max(float(run[meter].iloc[0]) for run in seeds)
    high = min(float(run[meter].iloc[-1]) for run in seeds)
    if low > high:
        low, high = (end(float(run[meter].iloc[at]) for run in seeds) for end, at in ((min, 0), (max, -1)))
    grid = np.unique(np.concatenate([run[meter].to_numpy(dtype=np.float64) for run in seeds]))
    grid = grid[(grid >= low) & (grid <= high)]
    if len(seeds) > 1 and len(grid) > 80:  # meters of different seeds differ slightly; a union would be jagged and long
        grid = np.linspace(low, high, 80)
    lines = [
        np.interp(grid, run[meter].to_numpy(dtype=np.float64), run[metric].to_numpy(dtype=np.float64)) for run in seeds
    ]
    return grid, np.array(lines)


def band(values: NDArray[np.float64], *names: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pointwise 95 % percentile bootstrap interval of the mean over seeds; ``values`` is (seeds, G)."""
    draws = generator("band", *names).integers(0, len(values), (1000, len(values)))
    weights = np.stack([(draws == seed).mean(axis=1) for seed in range(len(values))], axis=1)
    low, high = np.quantile(weights @ values, [0.025, 0.975], axis=0)
    return low, high


def draw_profile(axes: Axes, results: RunData, task: str, styles: FigureStyle) -> bool:
    """Share of a task's runs above each normalized score."""
    if results.primary_metric(task) != "normalized_score":
        return False
    scores = {label: seed_scores(results, task, label, "normalized_score") for label in results.labels(task)}
    scores = {label: values for label, values in scores.items() if len(values)}
    if not scores:
        return False
    low = min(0.0, *(float(values.min()) for values in scores.values()))
    levels = np.linspace(low - 0.02, 1.0, 400)
    for label, values in scores.items():
        axes.step(
            levels,
            performance_profile([values], levels),
            where="post",
            color=styles[label].color,
            lw=2,
            ls=styles[label].dash,
        )
    axes.set_xlabel("normalized score τ")
    axes.set_title("share of runs above τ", loc="left")
    axes.set_ylim(-0.03, 1.03)
    _legend(axes, list(scores), styles)
    return True


def _legend(axes: Axes, labels: list[str], styles: FigureStyle) -> None:
    from matplotlib.lines import Line2D

    from bakeoff.reports.figures.style import label_text

    handles = [
        Line2D([], [], color=styles[name].color, ls=styles[name].dash, lw=2, label=label_text(name, 26))
        for name in labels
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def title_of(metric: str, rows: pd.DataFrame) -> tuple[str, str]:
    """The column to draw for a metric (exact where known) and its axis title."""
    column = best_column(rows, metric)
    return column, METRIC_NAMES.get(column, column)
