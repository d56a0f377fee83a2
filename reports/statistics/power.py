"""How large a difference between two contestants some seeds can show, and how many seeds a difference needs. Numpy and scipy.

A seed's score is the contestant's mean, plus what the training seed did, plus the error of evaluating with finitely many
completions. The two parts are independent, so their variances add; more completions shrink the second alone. Assumed:
scores scatter normally; both contestants have their own seeds, which ignores that contestants of one seed share prompts and
random numbers (where that makes them move together, the real power is higher).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from bakeoff.errors import UserError
from bakeoff.reports.statistics.comparisons import critical_t

Array = NDArray[np.float64]

POWER = 0.8
"""How often a difference should be found, where it is there."""
MOST_SEEDS = 10_000
"""More are not planned."""
_NODES = (np.arange(160) + 0.5) / 160


@dataclass(frozen=True)
class Components:
    """What makes the scores of a contestant's seeds differ, as variances."""

    training: float
    """Of the true score between training seeds."""
    evaluation: float
    """Of the error of one evaluation, of ``completions`` completions; NaN where it is unknown, and then within ``training``."""
    completions: int
    """Completions of one evaluation; 0 where scores are exact or the number is not known."""
    freedom: int
    """Degrees of freedom of the variance between seeds: seeds less one, over contestants."""
    observed: float
    """Variance between the seeds as they are; smaller than the evaluation's by chance where there are few."""

    @property
    def total(self) -> float:
        """Variance of a seed's score."""
        return self.training + (0.0 if math.isnan(self.evaluation) else self.evaluation)

    @property
    def evaluation_share(self) -> float:
        """The evaluation's part of the variance, 0 to 1; NaN where it is unknown or nothing scatters."""
        return self.evaluation / self.total if self.total > 0 else math.nan

    def at(self, completions: int) -> float:
        """Variance of a seed's score with another number of completions.

        Raises:
            UserError: the evaluation's part is unknown.
        """
        if self.completions == 0 or completions == self.completions:
            return self.total
        if math.isnan(self.evaluation):
            raise UserError("scatter at other numbers of completions: the evaluation's part is unknown")
        return self.training + self.evaluation * self.completions / completions

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Interval of the total variance from its degrees of freedom (chi-squared: normal scores), not below the evaluation's."""
        tail = (1 - confidence) / 2
        low, high = (self.observed * self.freedom / stats.chi2.ppf(share, self.freedom) for share in (1 - tail, tail))
        floor = 0.0 if math.isnan(self.evaluation) else self.evaluation
        return max(float(low), floor), max(float(high), self.total)


def variance_components(scores: Sequence[ArrayLike], evaluation: ArrayLike, completions: int) -> Components:
    """Components by the method of moments, pooled over contestants that are taken to scatter alike.

    The variance between seeds holds both parts, so training's is what the evaluation's leaves of it, not below 0. Where
    the evaluation's error alone is larger than what the seeds show, the error stands: few seeds that agree prove nothing.

    Args:
        scores: each contestant's scores, one per seed; those with one seed say nothing and are left out.
        evaluation: each contestant's variance of the error of one evaluation; 0 exact, NaN unknown.
        completions: completions of one evaluation; 0 where scores are exact or the number is not known.

    Raises:
        UserError: no contestant with two seeds.
    """
    errors = np.broadcast_to(np.asarray(evaluation, dtype=np.float64), (len(scores),))
    samples = [np.asarray(sample, dtype=np.float64).reshape(-1) for sample in scores]
    freedoms = np.array([max(len(sample) - 1, 0) for sample in samples], dtype=np.float64)
    known = freedoms > 0
    if not known.any():
        raise UserError("scatter between seeds: no contestant has two seeds")
    variances = np.array([sample.var(ddof=1) for sample, two in zip(samples, known, strict=True) if two])
    scale = max(float(np.abs(sample).max()) for sample in samples if len(sample))
    variances[variances <= (1e-12 * scale) ** 2] = 0.0  # rounding of identical numbers is not scatter
    total = float(np.average(variances, weights=freedoms[known]))
    error = float(np.average(errors[known], weights=freedoms[known]))
    training = total if math.isnan(error) else max(total - error, 0.0)
    return Components(training, error, completions, int(freedoms.sum()), total)


def claim_limit(a: Array, b: Array, seeds: tuple[int, int], contestants: int) -> Array:
    """How large a difference of two means must be seen to count, given both sample variances.

    As in :func:`~bakeoff.reports.statistics.comparisons.differences`, where each variance is at least the mean of all
    contestants'; here the two stand for all.

    Args:
        a: sample variances of one side, above 0 or all 0; any shape that broadcasts with the other's.
        b: of the other side, not both 0.
        seeds: of each side.
        contestants: all that are compared.
    """
    mean = (a + b) / 2
    error = np.sqrt(np.maximum(a, mean) / seeds[0] + np.maximum(b, mean) / seeds[1])
    return np.asarray(critical_t(contestants, min(seeds)) * error)


def power(difference: float, variances: tuple[float, float], seeds: tuple[int, int], contestants: int = 2) -> float:
    """Chance that a difference of two contestants counts, with the right sign.

    Given both sample variances, the difference is a normal variable against a limit that these variances set; the chance is
    averaged over their chi-squared distributions, on a grid of quantiles.

    Args:
        difference: of the true means, above 0.
        variances: of a seed's score, of each side.
        seeds: of each side, at least 2.
        contestants: all that are compared, which share the error of 5 %.
    """
    parts = [variance / count for variance, count in zip(variances, seeds, strict=True)]
    if sum(parts) <= 0:
        return 1.0
    if min(seeds) < 2:
        return 0.0
    a, b = (2 * special.gammaincinv((n - 1) / 2, _NODES) / (n - 1) for n in seeds)
    limit = claim_limit((variances[0] * a)[:, None], (variances[1] * b)[None, :], seeds, contestants)
    return float(special.ndtr((difference - limit) / math.sqrt(sum(parts))).mean())


def detectable_difference(variances: tuple[float, float], seeds: tuple[int, int], contestants: int = 2) -> float:
    """The smallest difference that is found with a power of 80 %; infinite with one seed on a side, 0 without scatter."""
    spread = math.sqrt(sum(variance / count for variance, count in zip(variances, seeds, strict=True)))
    if spread <= 0:
        return 0.0
    if min(seeds) < 2:
        return math.inf
    high = spread
    while power(high, variances, seeds, contestants) < POWER:
        high *= 2
    return float(
        optimize.brentq(lambda d: power(d, variances, seeds, contestants) - POWER, 0.0, high, xtol=1e-6 * high)
    )


def seeds_needed(difference: float, variances: tuple[float, float], contestants: int = 2) -> int | None:
    """The fewest seeds per contestant, at least 2, with a power of 80 %; ``None`` beyond :data:`MOST_SEEDS`.

    Raises:
        UserError: a difference that is not above 0.
    """
    if not difference > 0:
        raise UserError(f"difference {difference}: give a number above 0")

    def enough(seeds: int) -> bool:
        return power(difference, variances, (seeds, seeds), contestants) >= POWER

    low, high = 1, 2
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
