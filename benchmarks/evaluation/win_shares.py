"""How often completions beat the reference's on the same prompt, by pairs that share no random numbers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def win_shares(scores_B: Array, rivals_B: Array, prompts_B: npt.NDArray[np.int64], *, skip_own: bool) -> Array:
    """For each completion the share of its prompt's rivals that it beats, ties one half; NaN where it has none.

    The mean is an unbiased estimate of P(a completion beats a rival on the same prompt) over independent draws, as long as the
    pairs that are compared share no random numbers.

    Args:
        scores_B: the judge's scores of a contestant's completions.
        rivals_B: its scores of the rivals' completions of the same prompts.
        prompts_B: which prompt each row of both answers.
        skip_own: leave out the rival in the same row: for rivals that were drawn row by row with the same random numbers. The
            rivals' own mean is then exactly 1/2, since every pair counts once in each order (a U-statistic).
    """
    shares_B = np.empty(len(scores_B))
    for prompt in np.unique(prompts_B):
        rows = np.flatnonzero(prompts_B == prompt)
        signs = np.sign(scores_B[rows][:, None] - rivals_B[rows][None, :])
        if skip_own:
            np.fill_diagonal(signs, 0.0)
        pairs = len(rows) - 1 if skip_own else len(rows)
        shares_B[rows] = (1 + signs.sum(axis=1) / pairs) / 2 if pairs else np.nan
    return shares_B


def win_rate(shares_B: Array) -> float:
    """Mean of the shares. Leads that cancel leave no rounding behind."""
    return 0.5 + math.fsum(shares_B - 0.5) / len(shares_B)


def next_of_prompt(prompts_B: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each row the next one that answers the same prompt; after the last comes the first."""
    next_B = np.empty(len(prompts_B), dtype=np.int64)
    for prompt in np.unique(prompts_B):
        rows = np.flatnonzero(prompts_B == prompt)
        next_B[rows] = np.roll(rows, -1)
    return next_B
