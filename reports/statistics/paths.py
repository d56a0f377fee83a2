"""A contestant's score along its training: at a KL, at a spend, and at an evaluation that other seeds chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bakeoff.reports.statistics.estimates import Estimate

Array = NDArray[np.float64]


class Held(NamedTuple):
    """Scores at evaluations that were chosen on other seeds than they are taken from."""

    scores: Array
    """By seed."""
    chosen: NDArray[np.int64]
    """Number of the evaluation, by seed."""


def score_where_reached(positions: ArrayLike, scores: ArrayLike, level: float) -> float:
    """The score where a path first reaches a level, linear between its evaluations; NaN where it never does.

    Args:
        positions: the path's position at each evaluation in turn, such as its KL; it may turn back.
        scores: the score at each.
        level: position to read the score at.
    """
    x, y = _known(positions, scores)
    for k in range(len(x)):
        if x[k] == level:
            return float(y[k])
        if k + 1 < len(x) and min(x[k], x[k + 1]) < level < max(x[k], x[k + 1]):
            return float(y[k] + (y[k + 1] - y[k]) * (level - x[k]) / (x[k + 1] - x[k]))
    return float("nan")


def score_within(spent: ArrayLike, scores: ArrayLike, spend: float) -> float:
    """The score that a spend gives, linear between evaluations; NaN where the first evaluation had cost more.

    Of several evaluations at one total (training goes on without spending) the last counts, and a run that ended before
    keeps its last score.

    Args:
        spent: total spent at each evaluation, never falling.
        scores: the score at each.
        spend: how much may be spent.
    """
    x, y = _known(spent, scores)
    affordable = np.flatnonzero(x <= spend)
    if not len(affordable):
        return float("nan")
    k = int(affordable[-1])
    if k + 1 == len(x) or x[k] == spend:
        return float(y[k])
    return float(y[k] + (y[k + 1] - y[k]) * (spend - x[k]) / (x[k + 1] - x[k]))


def chosen_on_other_seeds(scores_SK: ArrayLike) -> Held:
    """Each seed's score at the evaluation where the other seeds' mean is highest, so noise in its own evaluations does not choose.

    Raises:
        ValueError: fewer than two seeds.
    """
    table_SK = np.asarray(scores_SK, dtype=np.float64)
    if len(table_SK) < 2:
        raise ValueError("two seeds are needed: one chooses for the other")
    chosen = [int(np.delete(table_SK, seed, axis=0).mean(axis=0).argmax()) for seed in range(len(table_SK))]
    return Held(table_SK[np.arange(len(table_SK)), chosen], np.array(chosen, dtype=np.int64))


def mean_over_seeds(scores: Sequence[float] | Array) -> Estimate:
    """The mean with Student's 95 % interval over seeds; NaN ends for one seed, all NaN for none."""
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, np.nan, np.nan)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def _known(positions: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(positions, dtype=np.float64).reshape(-1), np.asarray(scores, dtype=np.float64).reshape(-1)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]
