"""One contestant against another: differences of means, correction for many comparisons, ratings, best-of-n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from scipy.sparse.csgraph import connected_components

from bakeoff.errors import UserError

Array = NDArray[np.float64]


class Difference(NamedTuple):
    """A difference of two means over seeds."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, uncorrected; NaN with a single seed on a side that varies."""


def welch_difference(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Difference:
    """mean(x) - mean(y) over seeds with Welch's t interval (unequal variances, Satterthwaite's degrees of freedom).

    It assumes that seeds scatter roughly normally. Where neither side varies (exact evaluation of untrained
    contestants) the difference is exact: p is 0, or 1 where they are equal.
    """
    a, b = np.asarray(x, dtype=np.float64).reshape(-1), np.asarray(y, dtype=np.float64).reshape(-1)
    if len(a) == 0 or len(b) == 0:
        raise UserError("difference of means: a contestant without seeds; leave it out")
    value = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return Difference(value, np.nan, np.nan, np.nan)
    share_a, share_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    spread = float(np.sqrt(share_a + share_b))
    scale = max(abs(a).max(), abs(b).max())
    if spread <= 1e-12 * scale or spread == 0:  # rounding of identical numbers is not noise
        return Difference(value, value, value, float(abs(value) <= 1e-12 * scale))
    freedom = (share_a + share_b) ** 2 / (share_a**2 / (len(a) - 1) + share_b**2 / (len(b) - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * spread
    p = float(2 * stats.t.sf(abs(value) / spread, freedom))
    return Difference(value, value - half, value + half, p)


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjustment (1979): adjusted p-values that hold the family-wise error; NaN stays and is not
    counted.
    """
    raw = np.asarray(p_values, dtype=np.float64).reshape(-1)
    adjusted = np.full_like(raw, np.nan)
    known = np.flatnonzero(~np.isnan(raw))
    running = 0.0
    for rank, index in enumerate(known[np.argsort(raw[known], kind="stable")]):
        running = max(running, min(1.0, float(raw[index]) * (len(known) - rank)))
        adjusted[index] = running
    return adjusted


def ratings_from_wins(wins: ArrayLike, *, prior: float = 0.0, tolerance: float = 1e-12) -> Array:
    """Bradley and Terry's log-strengths theta with P(i beats j) = sigmoid(theta_i - theta_j), maximum likelihood, mean zero.

    Args:
        wins: square; ``wins[i, j]`` is how often i beat j, a tie counts one half on both sides.
        prior: imaginary ties added between every two players; above 0 it keeps an unbeaten player's rating finite.
        tolerance: stop once no rating moves by more.

    Raises:
        UserError: not square or negative, or without a finite solution (players split into two groups of which one
            never
            loses to the other); the message says what to do.

    Minorization-maximization, Hunter 2004, equation 3.
    """
    table = np.array(wins, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or (table < 0).any() or not np.isfinite(table).all():
        raise UserError("ratings: wins must be a square table of numbers from 0 up")
    table += prior / 2
    np.fill_diagonal(table, 0.0)
    if connected_components(table > 0, connection="strong")[0] > 1:
        raise UserError("ratings: some players never lost to the others, so ratings are infinite; set prior=1")
    games = table + table.T
    total = table.sum(axis=1)
    strength = np.ones(len(table))
    for _ in range(100_000):
        updated = total / (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        updated /= np.exp(np.log(updated).mean())
        moved = float(np.abs(np.log(updated) - np.log(strength)).max())
        strength = updated
        if moved < tolerance:
            break
    ratings = np.log(strength)
    return np.asarray(ratings - ratings.mean())


def expected_maximum(scores: ArrayLike, ns: Sequence[int]) -> Array:
    """Unbiased estimate of E[max of n fresh draws] from m scores, for each n up to m.

    The mean of the maximum over all subsets of size n, without listing them: sum_i C(i-1, n-1) / C(m, n) x_(i) over the
    ordered scores (a U-statistic).

    Raises:
        UserError: an n below 1 or above the number of scores.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1))
    m = len(ordered)
    rank = np.arange(1, m + 1, dtype=np.float64)
    means = []
    for n in ns:
        if not 1 <= n <= m:
            raise UserError(f"best of {n} from {m} scores; n must be between 1 and {m}")
        with np.errstate(divide="ignore"):
            log_weight = np.where(rank >= n, _log_choose(np.maximum(rank - 1, n - 1), n - 1), -np.inf)
        means.append(float(np.exp(log_weight - _log_choose(np.array(float(m)), n)) @ ordered))
    return np.array(means)


def _log_choose(n: Array, k: float) -> Array:
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))


def pareto_set(cost: ArrayLike, gain: ArrayLike) -> NDArray[np.bool_]:
    """True for each point that no other beats: none has at least its gain at no more cost, and is better in one of the
    two.
    """
    x, y = np.asarray(cost, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    no_worse = (x[None, :] <= x[:, None]) & (y[None, :] >= y[:, None])
    better = (x[None, :] < x[:, None]) | (y[None, :] > y[:, None])
    return np.asarray(~(no_worse & better).any(axis=1))
