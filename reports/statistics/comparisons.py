"""One contestant against another: leads and what they take to count, differences of means, ratings, best-of-n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from scipy.sparse.csgraph import connected_components

from bakeoff.errors import UserError
from bakeoff.reports.statistics.critical_values import CRITICAL

ALPHA = 0.05
"""Share of reports with a false claim that the critical values allow."""
Array = NDArray[np.float64]


class Difference(NamedTuple):
    """A difference of two means over seeds."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided; NaN where nothing can be said: a single seed, or no scatter in figures of unknown error."""


@dataclass(frozen=True)
class Scores:
    """One contestant's scores on one task."""

    values: Array
    """One a seed, shape (N,)."""
    errors: Array = field(default_factory=lambda: np.full(1, np.nan))
    """Standard error of each from its evaluation's completions, shape (N,) or (1,); NaN where unknown."""
    completions: float = 0
    """Completions behind each value; 0 where unknown."""
    exact: bool = False
    """Computed over all completions, not sampled. A figure whose completions all got the same reward is still sampled."""
    lower_bound: bool = False
    """The scores are only known to be at least these: an upper bound stands for the KL."""


def critical_t(contestants: int, seeds: int) -> float:
    """How many standard errors a difference must have to count, where any pair of contestants may be the one that is looked at.

    Chosen by simulation, so that at most one report in twenty makes a false claim in the worst of the cases of
    :mod:`~bakeoff.reports.statistics.comparison_errors`, for the best against each other one as well as for the reference
    against each. Between simulated numbers it is interpolated; beyond 20 seeds it is that of 20, and beyond 16
    contestants it grows as fast as it does anywhere before.

    Args:
        contestants: all that are compared, the reference included, from 2 up.
        seeds: of the contestant that has fewer, from 2 up.

    Raises:
        UserError: fewer than two of either.
    """
    if contestants < 2 or seeds < 2:
        raise UserError(f"a comparison of {contestants} contestants at {seeds} seeds; give at least two of both")
    known = sorted(CRITICAL)
    most = max(CRITICAL[known[0]])
    among = min(contestants, most)
    logs = [np.interp(np.log(among), np.log(list(CRITICAL[n])), np.log(list(CRITICAL[n].values()))) for n in known]
    simulated = float(np.exp(np.interp(-1 / seeds, [-1 / n for n in known], logs)))
    return float(simulated * (contestants / among) ** _steepest_rise())


def _steepest_rise() -> float:
    """The largest exponent with which a row of critical values rises at its end, in the number of contestants."""
    ends = [sorted(row.items())[-2:] for row in CRITICAL.values()]
    return max(float(np.log(v2 / v1) / np.log(k2 / k1)) for (k1, v1), (k2, v2) in ends)


def seed_variances(contestants: Sequence[Scores]) -> Array:
    """Variance over seeds of each contestant, never below what few seeds cannot show.

    That is the variance of its own evaluations, which its seeds contain, and then the mean of all contestants' variances:
    three seeds that happen to agree are no certainty. NaN with one seed.
    """
    own = np.array([_own_variance(one) for one in contestants])
    known = own[~np.isnan(own)]
    return np.maximum(own, known.mean()) if len(known) else own


def _own_variance(one: Scores) -> float:
    if len(one.values) < 2:
        return float("nan")
    spread = one.values.var(ddof=1)
    if spread <= (1e-12 * abs(one.values).max()) ** 2:  # rounding of identical numbers is not noise
        spread = 0.0
    return float(max(spread, _sampling_variance(one)))


def _sampling_variance(one: Scores) -> float:
    known = one.errors[~np.isnan(one.errors)]
    return float(np.mean(known**2)) if len(known) and not one.exact else 0.0


def differences(pairs: Sequence[tuple[int, int]], contestants: Sequence[Scores]) -> list[Difference]:
    """Difference of means of each pair, with intervals and p-values that hold for all pairs at once.

    The interval is :func:`critical_t` standard errors to either side, and p is below :data:`ALPHA` where it excludes 0: p is
    Student's, with one degree of freedom less than there are seeds, times the number of comparisons that the critical value
    stands for. The squared standard error is the sum of both :func:`seed_variances` over their seeds, or that of the
    evaluations alone, if larger, with their completions pooled, as in the score test of two equal shares. Only figures that
    are exact and scatter over no seeds differ exactly: p is 0, or 1 where they are equal.

    Args:
        pairs: which two, by their place.
        contestants: all that are compared, also those in none of the pairs.
    """
    variances = seed_variances(contestants)
    compared = int((~np.isnan(variances)).sum())
    return [_difference(contestants[i], contestants[j], variances[[i, j]], compared) for i, j in pairs]


def _difference(a: Scores, b: Scores, variances: Array, compared: int) -> Difference:
    value = float(a.values.mean() - b.values.mean())
    if abs(value) <= 1e-12 * max(abs(a.values).max(), abs(b.values).max()):
        value = 0.0
    if min(len(a.values), len(b.values)) < 2:
        return Difference(value, np.nan, np.nan, np.nan)
    if a.exact and b.exact and _own_variance(a) == _own_variance(b) == 0:
        return Difference(value, value, value, float(value == 0))
    sizes = np.array([len(a.values), len(b.values)])
    sampled = float(np.array([_sampling_variance(a), _sampling_variance(b)]) @ (1 / sizes))
    completions = float(np.array([a.completions, b.completions]) @ sizes)
    if completions:
        sampled += value**2 / completions  # the pooled variance under equal means has that of the means in it
    error = float(np.sqrt(max(float(variances @ (1 / sizes)), sampled)))
    if error == 0:  # sampled figures that agree, of unknown error
        return Difference(value, np.nan, np.nan, 1.0 if value == 0 else np.nan)
    seeds = int(sizes.min())
    bar = critical_t(compared, seeds)
    alone = stats.t.sf([abs(value) / error, bar], seeds - 1)
    return Difference(value, value - bar * error, value + bar * error, float(min(1.0, ALPHA * alone[0] / alone[1])))


def welch_difference(x: ArrayLike, y: ArrayLike, confidence: float = 0.95, *, exact: bool = False) -> Difference:
    """mean(x) - mean(y) over seeds with Welch's t interval (unequal variances, Satterthwaite's degrees of freedom), one pair alone.

    It assumes that seeds scatter roughly normally. Where neither side varies, the difference is exact only if the values are
    (``exact``): p is 0, or 1 where they are equal. Sampled values that agree have no interval.
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
        equal = abs(value) <= 1e-12 * scale
        if not exact:
            return Difference(value, np.nan, np.nan, 1.0 if equal else np.nan)
        return Difference(value, value, value, float(equal))
    freedom = (share_a + share_b) ** 2 / (share_a**2 / (len(a) - 1) + share_b**2 / (len(b) - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * spread
    p = float(2 * stats.t.sf(abs(value) / spread, freedom))
    return Difference(value, value - half, value + half, p)


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
