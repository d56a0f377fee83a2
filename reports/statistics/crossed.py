"""Win rates between two contestants over crossed prompts and seeds, with standard errors that know both.

Answers of one prompt resemble each other, and so do answers of one training run. Prompts are the same for all runs, so a rate's
error has a part from prompts, a part from runs and a part from single answers: crossed random effects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


class CrossedRate(NamedTuple):
    """A win rate over prompts and seeds."""

    rate: float
    """Mean over prompts of the share of pairs won, ties one half."""
    standard_error: float
    """Of other prompts and other seeds; of other seeds alone where there is one prompt."""
    freedom: float
    """Satterthwaite's degrees of freedom of the standard error."""
    pairs: int
    """Pairs of answers compared."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's interval with Student's quantile, for as many independent pairs as would have this standard error."""
        quantile = float(stats.t.ppf(0.5 + confidence / 2, self.freedom))
        squared = quantile**2 / self.effective_pairs
        center = (self.rate + squared / 2) / (1 + squared)
        half = np.sqrt(squared * (self.rate * (1 - self.rate) + squared / 4)) / (1 + squared)
        return float(center - half), float(center + half)

    @property
    def effective_pairs(self) -> float:
        """How many independent pairs would have this standard error; where all pairs agree, the prompts."""
        spread = self.rate * (1 - self.rate)
        return spread / self.standard_error**2 if spread > 0 else self.freedom


def crossed_win_rate(ours: ArrayLike, theirs: ArrayLike) -> CrossedRate | None:
    """How often a run of one contestant beats an independent run of another on a prompt, ties one half.

    Pairs are of different seeds: equal seeds have the same random numbers, in training and in evaluation. The mean over all
    pairs of different seeds is a U-statistic, unbiased for independent runs, and 1/2 for a contestant against itself.

    Args:
        ours: scores, shape (prompts, seeds, answers); NaN where there is none.
        theirs: the same for the other contestant, the seeds in the same places.

    Returns:
        The rate and its standard error; ``None`` where either has fewer than two seeds on the prompts that both answered.
    """
    wins_PST, pairs_PST = _wins(np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64))
    met_P = pairs_PST.sum(axis=(1, 2)) > 0
    wins_PST, pairs_PST = wins_PST[met_P], pairs_PST[met_P]
    sides = [_shares(wins_PST, pairs_PST, axis) for axis in (2, 1)]
    if min(side.shape[1] for side in sides) < 2:
        return None
    rate_P = wins_PST.sum(axis=(1, 2)) / pairs_PST.sum(axis=(1, 2))
    rate = float(rate_P.mean())
    error, freedom = _standard_error(rate_P, sides)
    if error < 1e-9:  # all agree, and their scatter says nothing of how often they would not
        error, freedom = _agreement(rate, len(rate_P)), float(len(rate_P))
    return CrossedRate(rate, error, freedom, int(pairs_PST.sum()))


def _wins(ours_PSK: Array, theirs_PSK: Array) -> tuple[Array, Array]:
    """Pairs won and pairs, by prompt, our seed and their seed; none of equal seeds."""
    leads_PSTKK = ours_PSK[:, :, None, :, None] - theirs_PSK[:, None, :, None, :]
    leads_PSTKK[:, np.eye(ours_PSK.shape[1], dtype=bool)] = np.nan
    known_PSTKK = np.isfinite(leads_PSTKK)
    wins_PSTKK = np.where(known_PSTKK, (1 + np.sign(np.where(known_PSTKK, leads_PSTKK, 0))) / 2, 0)
    return wins_PSTKK.sum(axis=(3, 4)), known_PSTKK.sum(axis=(3, 4)).astype(np.float64)


def _shares(wins_PST: Array, pairs_PST: Array, axis: int) -> Array:
    """Share of pairs won by prompt and one side's seed, over the seeds of the other side; NaN where there are no pairs."""
    pairs_PS = pairs_PST.sum(axis=axis)
    shares_PS = np.full(pairs_PS.shape, np.nan)
    np.divide(wins_PST.sum(axis=axis), pairs_PS, out=shares_PS, where=pairs_PS > 0)
    return shares_PS[:, np.isfinite(shares_PS).any(axis=0)]


def _standard_error(rate_P: Array, sides: list[Array]) -> tuple[float, float]:
    """Crossed random effects: the variance between prompts, plus that between seeds, less what both contain.

    Var(mean) = (MS_prompts + MS_seeds - MS_interaction) / (prompts x seeds), for the seeds of both contestants; at least the
    larger of the two one-way variances. A seed's share against all other seeds of the opponent moves against the one that is
    left out: with n seeds each, mean squares between seeds are too large by the factor 1 + 1/(n - 1)^2.
    """
    prompts = len(rate_P)
    by_prompt = float(rate_P.var(ddof=1)) / prompts if prompts > 1 else 0.0
    fewest = min(side.shape[1] for side in sides)
    inflated = 1 + 1 / (fewest - 1) ** 2
    correlation = 2 / (fewest - 1) / inflated  # of one side's shares with the other's, by what is left out of them
    by_seed, by_answer = [], 0.0
    for shares_PS in sides:
        seeds = shares_PS.shape[1]
        centered_PS = shares_PS - np.nanmean(shares_PS, axis=1, keepdims=True)
        seed_S = np.nanmean(centered_PS, axis=0)
        by_seed.append(float(seed_S.var(ddof=1)) / seeds / inflated)
        if prompts > 1:
            interaction = float(np.nansum((centered_PS - seed_S) ** 2)) / ((prompts - 1) * (seeds - 1))
            by_answer += interaction / (prompts * seeds) / inflated
    variance = max(by_prompt + sum(by_seed) - by_answer, by_prompt, sum(by_seed))
    shares = [(part, shares_PS.shape[1]) for part, shares_PS in zip(by_seed, sides, strict=True)]
    weights = sum(part**2 / (count - 1) for part, count in [(by_prompt, max(2, prompts)), *shares])
    weights += 2 * correlation**2 * by_seed[0] * by_seed[1] / (fewest - 1)
    if variance <= 0:
        return 0.0, 1.0
    return float(np.sqrt(variance)), (by_prompt + sum(by_seed)) ** 2 / weights


def _agreement(rate: float, prompts: int) -> float:
    """Posterior deviation of a rate, its prior uniform, after as many prompts that all agreed."""
    return float(stats.beta(1 + rate * prompts, 1 + (1 - rate) * prompts).std())
