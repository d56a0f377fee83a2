"""The error of an evaluation's mean: how far other completions of the same prompts would move it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def error_within_prompts(values_B: npt.NDArray[np.float64], prompt_rows_B: npt.NDArray[np.int64]) -> float | None:
    """Standard error of the mean over completions, given the prompts.

    All seeds and contestants answer the same prompts, so what differs between prompts is no error when they are compared;
    the deviation over all completions, which holds it too, would be too large. Assumed: completions scatter alike at all
    prompts, or every prompt is answered equally often.

    Args:
        values_B: one value per completion, shape (B,).
        prompt_rows_B: which prompt each answers, shape (B,).

    Returns:
        Pooled deviation within prompts over the square root of B; ``None`` where no prompt is answered twice, NaN where a
        value is not finite.
    """
    _, prompt_B, count_P = np.unique(prompt_rows_B, return_inverse=True, return_counts=True)
    freedom = len(values_B) - len(count_P)
    if freedom == 0:
        return None
    with np.errstate(invalid="ignore"):  # an infinite KL: the error is no number either
        residual_B = values_B - (np.bincount(prompt_B, values_B) / count_P)[prompt_B]
    return math.sqrt(float(residual_B @ residual_B) / freedom / len(values_B))
