"""Reward against KL to the reference, with the best-of-n curve and, where it is known, the optimum at each KL."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bakeoff.best_of_n_kl import best_of_n_kl
from bakeoff.maths import best_of_n_kl_bound
from bakeoff.reports.data.entries import family
from bakeoff.reports.figures.curves import title_of
from bakeoff.reports.figures.labels import label_points
from bakeoff.reports.figures.style import BASELINE, INK, FigureStyle
from bakeoff.reports.statistics.comparisons import expected_maximum, pareto_set
from bakeoff.reports.statistics.estimates import stratified_bootstrap_interval
from bakeoff.reports.statistics.leaderboard import best_column, generator

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


class BestOfN(NamedTuple):
    """What the best of n answers of the reference would score, estimated from its stored samples."""

    kl: NDArray[np.float64]
    """Estimated from the ties among a prompt's samples; ln n - (n - 1) / n, an upper bound, where :attr:`bound`."""
    reward: NDArray[np.float64]
    """Expected maximum of n, unbiased for the pool it is estimated from."""
    n: NDArray[np.int64]
    samples: int
    """Reference samples behind it."""
    pooled: bool
    """True when prompts had few samples each, so their scatter was pooled."""
    bound: bool
    """True where the KL is its upper bound: pooled scatter has lost its ties."""


def draw_frontier(axes: Axes, results: RunData, task: str, styles: FigureStyle) -> bool:
    """Every seed a faint point, every contestant's mean with its 95 % interval both ways; a ring marks the Pareto set."""
    rows = results.final[results.final["task"] == task]
    kl, kl_title = title_of("kl", rows)
    reward, reward_title = title_of("proxy", rows)
    if kl not in rows or reward not in rows:
        return False
    rows = rows.dropna(subset=[kl, reward])
    if rows.empty:
        return False
    named: list[tuple[str, float, float, str]] = []
    for label in results.labels(task):
        seeds = rows[rows["label"] == label]
        if seeds.empty:
            continue
        series = styles[label]
        points = seeds[[kl, reward]].to_numpy(dtype=np.float64)
        if len(points) > 1:
            axes.scatter(points[:, 0], points[:, 1], color=series.color, marker=series.marker, s=16, alpha=0.35, lw=0)
        across, up = (stratified_bootstrap_interval([v], rng=generator("frontier", task, label)) for v in points.T)
        errors = np.nan_to_num([[e.value - e.low, e.high - e.value] for e in (across, up)])
        axes.errorbar(
            across.value,
            up.value,
            xerr=errors[0][:, None].clip(0),
            yerr=errors[1][:, None].clip(0),
            fmt=series.marker,
            color=series.color,
            ms=7,
            lw=1.3,
            capsize=2.5,
        )
        named.append((label, across.value, up.value, series.color))
    best = pareto_set([point[1] for point in named], [point[2] for point in named])
    for (_, x, y, _), on_front in zip(named, best, strict=True):
        if on_front:
            axes.scatter([x], [y], s=150, facecolors="none", edgecolors=INK, lw=1.0)
    reach = max(float(rows[kl].max()), 0.5) * 1.12
    optimum = _optimum(results, task)
    _draw_optimum(axes, optimum, reach)
    _draw_best_of_n(axes, best_of_n_curve(results.end_samples, results.first, task), optimum, reach)
    axes.set_xlim(-0.03 * reach, reach)
    axes.set_xlabel(kl_title)
    axes.set_title(f"{reward_title}, by KL to the reference", loc="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), fontsize=8.5, borderpad=0)
    label_points(axes, _sweeps(axes, named))
    return True


def _sweeps(axes: Axes, named: list[tuple[str, float, float, str]]) -> list[tuple[str, float, float, str]]:
    """Join the points of a sweep by a line in KL order and name it once; other points keep their labels."""
    labels = []
    groups: dict[str, list[tuple[str, float, float, str]]] = {}
    for point in named:
        groups.setdefault(family(point[0]), []).append(point)
    for name, points in groups.items():
        if len(points) == 1:
            labels += points
            continue
        points.sort(key=lambda point: point[1])
        axes.plot([p[1] for p in points], [p[2] for p in points], color=points[0][3], lw=1, alpha=0.6, zorder=1)
        labels.append((name, *points[-1][1:]))
    return labels


def _optimum(results: RunData, task: str) -> NDArray[np.float64] | None:
    """The exact optimal frontier as (K, 2) of KL and reward in KL order, where the store has it."""
    stored = results.tasks.get(task, {}).get("frontier")
    points = [
        (float(point["kl"]), float(point["reward"]))
        for point in (stored if isinstance(stored, list) else [])
        if isinstance(point, dict) and _is_number(point.get("kl")) and _is_number(point.get("reward"))
    ]
    return np.array(sorted(points)) if len(points) > 1 else None


def _draw_optimum(axes: Axes, optimum: NDArray[np.float64] | None, reach: float) -> None:
    if optimum is None:
        return
    x, y = optimum.T
    shown = x <= reach
    if shown.any() and not shown.all():
        x, y = np.append(x[shown], reach), np.append(y[shown], np.interp(reach, x, y))
    axes.plot(x, y, color=INK, lw=1.4, zorder=1, label="best possible at that KL (exact)")


def _draw_best_of_n(axes: Axes, curve: BestOfN | None, optimum: NDArray[np.float64] | None, reach: float) -> None:
    if curve is None:
        return
    reward = curve.reward
    if optimum is not None:  # an estimate may err above what no policy can do
        reward = np.minimum(reward, np.interp(curve.kl, *optimum.T))
    kept = curve.kl <= reach
    name = f"best of n, estimated from {curve.samples} reference samples"
    if curve.bound:
        name += ", at an upper bound of its KL"
    axes.plot(curve.kl[kept], reward[kept], color=BASELINE, lw=1.3, ls=(0, (2, 1.6)), zorder=1, label=name)
    for n, x, y in zip(curve.n, curve.kl, reward, strict=True):
        if x <= reach and n in (4, 16, 64):
            axes.scatter([x], [y], s=9, color=BASELINE, zorder=1)
            axes.annotate(f"n={n}", (x, y), (6, -9), textcoords="offset points", fontsize=7.5, color=BASELINE)


def best_of_n_curve(samples: pd.DataFrame, first: pd.DataFrame, task: str, fewest: int = 12) -> BestOfN | None:
    """Best-of-n from the first evaluation's samples, which are the reference's own, of every seed.

    Where each prompt has at least 8 samples, maximum and KL are estimated within prompts, for n up to the fewest of them.
    Where it has 2 to 7, scores are taken as a prompt's level plus scatter that is alike for all prompts: the pooled scatter,
    scaled by sqrt(m / (m - 1)) for the level that was estimated with it, gives n up to a quarter of the samples. The KL is
    its upper bound there, since pooled scatter has lost its ties; where a prompt's scores do tie, nothing is pooled.
    ``None`` where samples are fewer than ``fewest`` or one per prompt (the best of several prompts is not the best of n
    answers), or where the first policy was not the reference (its KL is above zero). n = 1 is set to the reference's mean
    over the whole first evaluation.
    """
    start = first[first["task"] == task]
    if "kl" not in start or start.empty:
        return None
    at_reference = start[start["kl"].abs() < 1e-4]
    keys = ["run", "label", "seed", "step"]
    rows = samples[samples["task"] == task].astype({"run": object, "label": object})
    rows = rows.merge(at_reference[keys].astype({"run": object, "label": object}), on=keys)
    rows = rows.dropna(subset=["proxy"])
    # Contestants of one seed share their first samples, in other runs too, so one contestant per seed represents all.
    owner = rows["run"].astype(str) + "\n" + rows["label"].astype(str)
    rows = rows[owner == owner.groupby(rows["seed"]).transform("first")]
    scores = [group["proxy"].to_numpy(dtype=np.float64) for _, group in rows.groupby("prompt", sort=True)]
    total = sum(map(len, scores))
    fewest_a_prompt = min(map(len, scores), default=0)
    if total < fewest or fewest_a_prompt < 2:
        return None
    pooled = fewest_a_prompt < 8 and all(len(np.unique(s)) == len(s) for s in scores)
    n = np.unique(np.round(np.geomspace(1, total // 4 if pooled else fewest_a_prompt, 40)).astype(np.int64))
    if pooled:
        scatter = np.concatenate([(s - s.mean()) * np.sqrt(len(s) / (len(s) - 1)) for s in scores])
        reward = np.mean([s.mean() for s in scores]) + expected_maximum(scatter, n.tolist())
        kl = np.array([best_of_n_kl_bound(count) for count in n])
    else:
        reward = np.mean([expected_maximum(s, n.tolist()) for s in scores], axis=0)
        kl = np.array([np.mean([best_of_n_kl(s, count) for s in scores]) for count in n.tolist()])
    level = best_column(at_reference, "proxy")
    if level in at_reference:  # the scatter is from a few prompts' samples, the level from the whole evaluation
        reward = reward - reward[0] + float(at_reference[level].mean())
    return BestOfN(kl, reward, n, total, pooled, bound=pooled)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
