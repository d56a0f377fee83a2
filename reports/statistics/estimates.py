"""Estimates over seeds with their intervals, and comparisons between contestants. Needs only numpy and scipy.

Scores come as *strata*: one array of seeds for each task. Resampling draws seeds within a task, never tasks as if they
were seeds, and every function that draws takes an explicit generator. Definitions and what they can and cannot say at
few seeds: docs/reports.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bakeoff.errors import UserError

Array = NDArray[np.float64]
Statistic = Callable[..., Any]
"""``statistic(values, axis=-1)``: reduces the last axis, like ``numpy.mean``."""


class Estimate(NamedTuple):
    """A number with an interval around it; the ends are NaN where no interval can be made (a single seed)."""

    value: float
    low: float
    high: float


class WinRate(NamedTuple):
    """A share of wins with its standard error, both between 0 and 1."""

    rate: float
    standard_error: float
    n: int


def interquartile_mean(values: ArrayLike, axis: int | None = None) -> Any:
    """Mean of the middle half: a quarter of the values, rounded down, is cut from each end (scipy's ``trim_mean``).

    With fewer than four values nothing is cut, so it equals the mean. ``axis=None`` takes all values together.
    """
    return stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis)


def stratified_bootstrap_interval(
    strata: ArrayLike | Sequence[ArrayLike],
    statistic: Statistic = np.mean,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
    method: Literal["percentile", "bca"] = "percentile",
) -> Estimate:
    """``statistic`` of all seeds pooled, with a bootstrap interval that resamples seeds within each stratum.

    Args:
        strata: one 1-D array of seeds per task; a single 1-D array is one task.
        statistic: reduces the last axis, e.g. ``numpy.mean`` or :func:`interquartile_mean`.
        rng: draws the resamples.
        confidence: nominal coverage. The real one is lower at few seeds: see docs/reports.md.
        resamples: bootstrap resamples.
        method: ``percentile``, or ``bca`` (bias-corrected and accelerated, Efron 1987).

    Returns:
        The estimate. The interval is NaN where a stratum has one seed, and has no width where all seeds agree.

    Raises:
        UserError: no seeds, an empty stratum, a value that is not finite, or an unknown method.
    """
    samples = _strata(strata)
    if method not in ("percentile", "bca"):
        raise UserError(f'interval method "{method}"; use "percentile" or "bca"')
    pooled = np.concatenate(samples)
    value = float(statistic(pooled, axis=-1))
    if min(len(sample) for sample in samples) < 2:
        return Estimate(value, np.nan, np.nan)
    if all(np.ptp(sample) == 0 for sample in samples):
        return Estimate(value, value, value)

    def pooled_statistic(*parts: Array, axis: int = -1) -> Any:
        return statistic(np.concatenate(parts, axis=axis), axis=axis)

    interval = stats.bootstrap(
        samples,
        pooled_statistic,
        n_resamples=resamples,
        confidence_level=confidence,
        method="BCa" if method == "bca" else "percentile",
        rng=rng,
        vectorized=True,
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def probability_of_improvement(
    x: ArrayLike | Sequence[ArrayLike],
    y: ArrayLike | Sequence[ArrayLike],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Estimate:
    """Chance that a run of X beats a run of Y on the same task: U / (n m), ties one half, averaged over tasks.

    The interval is a percentile bootstrap over the seeds of both, within tasks (Agarwal et al. 2021). Where the seeds
    do not overlap at all it has no width, which few seeds do not justify: use :func:`welch_difference` beside it.

    Raises:
        UserError: the two have not the same number of tasks, or a stratum is empty or not finite.
    """
    xs, ys = _strata(x), _strata(y)
    if len(xs) != len(ys):
        raise UserError(f"probability of improvement: {len(xs)} tasks against {len(ys)}; give both the same tasks")
    value = float(np.mean([_u_share(a, b) for a, b in zip(xs, ys, strict=True)]))
    if min(len(sample) for sample in (*xs, *ys)) < 2:
        return Estimate(value, np.nan, np.nan)
    draws = np.zeros(resamples)
    for a, b in zip(xs, ys, strict=True):
        beats = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])
        rows = rng.integers(0, len(a), (resamples, len(a)))
        columns = rng.integers(0, len(b), (resamples, len(b)))
        draws += beats[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2)) / len(xs)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _u_share(a: Array, b: Array) -> float:
    return float(np.mean((a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])))


def performance_profile(strata: ArrayLike | Sequence[ArrayLike], thresholds: ArrayLike) -> Array:
    """Share of runs whose score is above each threshold, averaged over tasks, shape of ``thresholds``.

    Every task weighs the same, however many seeds it has (Agarwal et al. 2021, equation 3, for unequal seeds).
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    shares = [(sample[:, None] > levels.reshape(-1)).mean(axis=0) for sample in _strata(strata)]
    return np.asarray(np.mean(shares, axis=0)).reshape(levels.shape)


def optimality_gap(values: ArrayLike, target: float = 1.0, axis: int | None = None) -> Any:
    """How far scores fall short of ``target`` on average; what lies above it does not make up for what lies below."""
    return np.mean(np.maximum(target - np.asarray(values, dtype=np.float64), 0.0), axis=axis)


def win_rate(outcomes: ArrayLike) -> WinRate:
    """Mean of outcomes (1 win, 0.5 tie, 0 loss; NaN: not judged, dropped) and its standard error, sample sd / sqrt(n).

    Raises:
        UserError: an outcome that is not 0, 0.5 or 1, or none at all.
    """
    values = np.asarray(outcomes, dtype=np.float64).reshape(-1)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise UserError("win rate: no outcomes; give at least one of 1, 0.5 and 0")
    if not np.isin(values, (0.0, 0.5, 1.0)).all():
        raise UserError("win rate: outcomes must be 1 (win), 0.5 (tie) or 0 (loss)")
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    return WinRate(float(values.mean()), error, len(values))


def _strata(strata: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
    """A list of 1-D float arrays, one per task, checked."""
    rows: list[Any] = list(strata) if isinstance(strata, Sequence | np.ndarray) else [strata]
    if rows and all(np.ndim(row) == 0 for row in rows):
        rows = [rows]
    samples = [np.asarray(row, dtype=np.float64).reshape(-1) for row in rows]
    if not samples or any(len(sample) == 0 for sample in samples):
        raise UserError("scores: a task without seeds; leave out tasks that have none")
    if not all(np.isfinite(sample).all() for sample in samples):
        raise UserError("scores: a value that is NaN or infinite; leave out runs that did not finish")
    return samples
