"""How often a report would claim a lead that does not exist, and how often it finds one that does: by simulation.

The cases are meant to be hard on a test of means: no scatter, little or ten times as much beside the others', scores that are
skewed to either side (gamma with skewness 1, exponential with skewness 2) or to both at once, all means equal or only some.
``benchmarks/studies/comparison_errors.py`` chooses the critical values from them, and writes down the rates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SHAPES = ("normal", "right 1", "left 1", "right 2", "left 2", "mixed 2")
"""Scatter over seeds: normal, or skewed by so much to a side; mixed: contestants in turn to the left and to the right."""
SPREADS = ("equal", "1 to 4", "1 to 10", "one loud", "one quiet", "half quiet", "one exact", "half exact")
"""Standard deviations of the contestants: loud is 10, quiet .1, exact 0, where the others have 1."""
MEANS = ("all equal", "two equal", "half equal")
"""Which contestants share the best mean; the rest are far below. The first and the last contestant are always among the two."""
RARE_FAILURE = "one run in ten fails"
"""A shape beyond what any test of means can hold at few seeds: most runs agree, and one in ten is far below."""
FAR = 1e4


class Case(NamedTuple):
    """One way in which scores may scatter."""

    shape: str
    spread: str
    means: str


def cases(contestants: int) -> Iterator[Case]:
    """The whole grid for so many contestants, without what coincides."""
    means = {2: MEANS[:1], 3: MEANS[:2]}.get(contestants, MEANS)
    yield from itertools.starmap(Case, itertools.product(SHAPES, SPREADS, means))


class FalseClaims(NamedTuple):
    """The largest differences that are none, in standard errors, of each simulated experiment, each of shape (runs,)."""

    best: Array
    """Of the contestant with the highest mean from one whose true mean is as high; 0 where there is no such."""
    first: Array
    """Of the first contestant from those that equal it, to either side: what a comparison with the reference meets."""
    last: Array
    """Of the last contestant, likewise: it is loud, quiet or exact where the first is not."""


def false_claims(case: Case, contestants: int, seeds: int, *, rng: np.random.Generator, runs: int) -> FalseClaims:
    """Simulate experiments in which only equal contestants could be told apart."""
    deviations, means = _deviations(case.spread, contestants), _means(case.means, contestants)
    scores_RKN = _draw(case.shape, (runs, contestants, seeds), rng) * deviations[:, None] + means[:, None]
    mean_RK, share_RK = _means_and_shares(scores_RKN)
    rows = np.arange(runs)

    def largest(from_R: NDArray[np.intp], absolute: bool) -> Array:
        difference_RK = mean_RK[rows, from_R][:, None] - mean_RK
        error_RK = np.sqrt(np.maximum(share_RK + share_RK[rows, from_R][:, None], 1e-300))
        ratio_RK = (np.abs(difference_RK) if absolute else difference_RK) / error_RK
        as_high_RK = means == means[from_R][:, None] if absolute else means >= means[from_R][:, None]
        return np.asarray(np.where(as_high_RK, ratio_RK, 0.0).max(axis=1))

    first, last = np.zeros(runs, dtype=np.intp), np.full(runs, contestants - 1)
    return FalseClaims(largest(mean_RK.argmax(axis=1), False), largest(first, True), largest(last, True))


def true_leads(contestants: int, seeds: int, gap: float, *, rng: np.random.Generator, runs: int) -> Array:
    """Leads of one contestant that is ``gap`` seed deviations above all others, in standard errors, shape (runs, contestants - 1).

    Scores are normal and of one deviation. -inf where another contestant came out best.
    """
    scores_RKN = rng.standard_normal((runs, contestants, seeds))
    scores_RKN[:, 0] += gap
    mean_RK, share_RK = _means_and_shares(scores_RKN)
    leads_RK = (mean_RK[:, :1] - mean_RK) / np.sqrt(share_RK + share_RK[:, :1])
    return np.asarray(np.where((mean_RK.argmax(axis=1) == 0)[:, None], leads_RK, -np.inf)[:, 1:])


def _means_and_shares(scores_RKN: Array) -> tuple[Array, Array]:
    """Means and their variances, which are at least the contestants' mean variance, as in :mod:`.comparisons`."""
    variance_RK = scores_RKN.var(axis=2, ddof=1)
    floored_RK = np.maximum(variance_RK, variance_RK.mean(axis=1, keepdims=True))
    return scores_RKN.mean(axis=2), floored_RK / scores_RKN.shape[2]


def _draw(shape: str, size: tuple[int, int, int], rng: np.random.Generator) -> Array:
    """Scores of mean 0 and deviation 1."""
    if shape == "normal":
        return rng.standard_normal(size)
    if shape == RARE_FAILURE:
        return (np.where(rng.random(size) < 0.1, -0.9, 0.1) + 0.01 * rng.standard_normal(size)) / 0.3
    side, skewness = shape.split()
    parts = 4 if skewness == "1" else 1  # the skewness of a sum of so many exponentials is 2 / sqrt(parts)
    values = sum((rng.standard_exponential(size) - 1 for _ in range(parts)), np.zeros(size)) / np.sqrt(parts)
    if side == "left":
        return np.asarray(-values)
    if side == "mixed":
        values[:, ::2] *= -1
    return np.asarray(values)


def _deviations(spread: str, contestants: int) -> Array:
    few, many = contestants // 2, contestants - contestants // 2
    one, half = np.ones(contestants - 1), np.ones(few)
    return {
        "equal": np.ones(contestants),
        "1 to 4": np.geomspace(1, 4, contestants),
        "1 to 10": np.geomspace(1, 10, contestants),
        "one loud": np.append(10.0, one),
        "one quiet": np.append(0.1, one),
        "half quiet": np.append(half, np.full(many, 0.1)),
        "one exact": np.append(0.0, one),
        "half exact": np.append(half, np.zeros(many)),
    }[spread]


def _means(means: str, contestants: int) -> Array:
    values = np.zeros(contestants)
    if means == "two equal":
        values[1:-1] = -FAR
    elif means == "half equal":
        values[1::2] = -FAR
    return values
