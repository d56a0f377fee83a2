"""KL(best of n || reference), estimated from the scores of the reference's samples, ties included.

Best of n picks among equal scores as the reference does, so its density relative to the reference depends on the score
alone, and the KL is that between the law of the largest of n scores and the law of one. Let F(r) be the reference's
probability of a score of at most r, and s(r) = P(score = r | score <= r) the share of ties there. The largest has score
r with probability w(r) = F(r)^n (1 - (1 - s)^n), and

    KL = sum_r w(r) ln(w(r) / P(r)) = ln n - (n - 1)/n - sum_r w(r) g(s(r)),

where summation by parts turns ln F into a function of s, so that

    g(s) = ln n - (n - 1)/n - ln((1 - q) / s) - (n - 1) q ln(1 - s) / (1 - q),    q = (1 - s)^n.

g rises from 0 without ties (the KL is the bound) to ln n - (n - 1)/n where all scores tie (the KL is 0). It is expected
over the largest score of n, so the tie counts of samples are enough to estimate it, without any model of the scores.

Among N samples let c tie at r and m be at most r. The chance that the best of n of them has score r estimates w(r)
without bias. For w g, take any sample at r as the winner: c - 1 of the m - 1 others tie with it, each with chance s. The
plug-in estimate of G(s) = g(s) (1 - q)/s from that binomial count is biased by the curvature of G; subtracting the bias
that it would have at the estimate, repeatedly, removes nearly all of it (the iterated bootstrap, here a sum without
resampling).

The estimate is exact where no scores tie and where all do. Else its expectation is within .006 nats of the KL from eight
samples on, whatever the scores' law; at N = n within .006 for n of 4 or more, within .013 at 3, and up to .054 too low at
2, where one pair of samples cannot tell a few large ties from many. Scores that differ by rounding alone do not tie: there
it lies between the KL and the bound.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bakeoff.errors import UserError
from bakeoff.maths import best_of_n_kl_bound

Array = NDArray[np.float64]

CORRECTIONS = 8
"""How often the bias of the plug-in estimate is subtracted; the scatter hardly grows with it."""
MOST_CORRECTED = 1024
"""Samples up to which that is done (it takes a square table); the bias of far larger pools is small without it."""


def best_of_n_kl(scores: ArrayLike, n: int) -> float:
    """Estimate of KL(best of n || reference) in nats, at one prompt.

    Args:
        scores: of N >= n independent samples of the reference for this prompt; equal scores are ties.
        n: how many samples the best is chosen from.

    Returns:
        Between 0 and ln n - (n - 1)/n up to rounding.

    Raises:
        UserError: n is below 1 or above the number of scores.
    """
    _, tied = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
    upto = tied.cumsum()
    if not 1 <= n <= tied.sum():
        raise UserError(f"KL of the best of {n} from {tied.sum()} scores; n must be between 1 and {tied.sum()}")
    chances = _subsets_within(upto, upto[-1], n) - _subsets_within(upto - tied, upto[-1], n)
    several = (tied > 1) & (chances > 0)  # a score that came once says nothing of ties
    found = [_tie_corrections(int(m), n)[c] for c, m in zip(tied[several], upto[several], strict=True)]
    return best_of_n_kl_bound(n) - float(chances[several] @ np.array(found))


def tie_correction(shares: ArrayLike, n: int) -> Array:
    """g(s), what ties take off the bound on the KL where the best of n has a share s in (0, 1] of ties."""
    s = np.asarray(shares, dtype=np.float64)
    log_other = np.log1p(-np.where(s < 1, s, 0.5))
    q = np.exp(n * log_other)
    kl = np.log(-np.expm1(n * log_other) / s) + (n - 1) * q * log_other / -np.expm1(n * log_other)
    return np.asarray(best_of_n_kl_bound(n) - np.where(s < 1, kl, 0.0))


@lru_cache(maxsize=512)
def _tie_corrections(m: int, n: int) -> Array:
    """Estimates of g where c = 0..m of the m samples up to a score tie at it; c of 0 and 1 give 0."""
    others = m - 1
    shares = np.arange(1, others + 1) / others
    plug_in = np.zeros(m)  # of G, by how many others tie
    plug_in[1:] = tie_correction(shares, n) * -np.expm1(n * np.log1p(-np.minimum(shares, 1 - 1e-16))) / shares
    corrected = plug_in
    if m <= MOST_CORRECTED:
        chances = _binomial(others)
        for _ in range(CORRECTIONS):
            corrected = corrected + plug_in - chances @ corrected
    tied = np.arange(1, m + 1)
    best = tied / m * corrected / (1 - _subsets_within(m - tied, m, n))
    return np.concatenate([[0.0], best.clip(0, best_of_n_kl_bound(n))])


@lru_cache(maxsize=8)
def _binomial(count: int) -> Array:
    """Chance of each number of hits 0..count (columns) among ``count`` tries that hit with chance row / count."""
    hits, chance = np.arange(count + 1), np.arange(count + 1)[1:-1, None] / count
    inner = np.exp(_log_choose(count, hits) + hits * np.log(chance) + (count - hits) * np.log1p(-chance))
    ends = np.eye(count + 1)
    return np.concatenate([ends[:1], inner, ends[-1:]])


def _subsets_within(sizes: NDArray[np.int64], total: int, n: int) -> Array:
    """The share of the subsets of n of ``total`` samples that lie within the first of each size: C(size, n) / C(total, n)."""
    factorials = _log_factorials(int(total))
    enough = np.maximum(sizes, n)
    share = np.exp(factorials[enough] - factorials[enough - n] - factorials[total] + factorials[total - n])
    return np.where(sizes >= n, share, 0.0)


def _log_choose(count: int, k: NDArray[np.int64]) -> Array:
    factorials = _log_factorials(count)
    return np.asarray(factorials[count] - factorials[k] - factorials[count - k])


@lru_cache(maxsize=64)
def _log_factorials(largest: int) -> Array:
    """ln 0!, ln 1!, ..., ln largest!"""
    return np.concatenate([[0.0], np.log(np.arange(1, largest + 1)).cumsum()])
