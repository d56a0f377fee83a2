"""What is rounding and no signal. Pure functions: tensors in, tensors out.

Adam makes a full step of any gradient, however small, so a difference that is rounding alone has to be exactly 0: where every
completion has the same reward, the policy stays where it is. Letters: B completions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bakeoff.envs.precision import accurate

ROUNDING = 8 * torch.finfo(torch.float32).eps
"""Numbers that differ by no more than this share of their size are the same: models, reward models too, compute in float32."""


def tied(first_N: Tensor, second_N: Tensor) -> Tensor:
    """Whether numbers are equal up to rounding, bool; any shape."""
    first_N, second_N = (x.to(accurate(x.device)) for x in (first_N, second_N))
    return (first_N - second_N).abs() <= ROUNDING * torch.maximum(first_N.abs(), second_N.abs())


def relative_scores(scores_B: Tensor, group_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Scores less the mean of their group, and that mean, each (B,) in float64.

    In a group whose scores differ by rounding alone all are exactly 0. The same scores plus a constant, of any size, give the same
    result up to the last digits of a float64.

    Args:
        scores_B: any finite numbers.
        group_size: so many consecutive rows belong together; None: all do.
    """
    groups = scores_B.to(accurate(scores_B.device)).reshape(-1, len(scores_B) if group_size is None else group_size)
    means = groups.mean(1, keepdim=True)
    equal = tied(groups.amax(1, keepdim=True), groups.amin(1, keepdim=True))
    return torch.where(equal, 0.0, groups - means).flatten(), means.expand_as(groups).flatten()


def scores_from(origin: float, scores_B: Tensor) -> Tensor:
    """Scores less a fixed number, shape (B,) in float64; exactly 0 where they differ from it by rounding alone."""
    scores_B = scores_B.to(accurate(scores_B.device))
    return torch.where(tied(scores_B, torch.full_like(scores_B, origin)), 0.0, scores_B - origin)


def without_rounding(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Log-probabilities that have exactly the reference's value where they differ from it by rounding; their gradient stays.

    Two passes over a completion in batches of other shapes differ in their last digits.

    Args:
        logps: of whole completions, under the policy; any shape.
        reference_logps: under the reference, of the same shape; no gradient.
    """
    with torch.no_grad():
        gap = reference_logps - logps
        gap = torch.where(gap.abs() <= ROUNDING * (logps.abs() + reference_logps.abs()), gap, 0.0)
    return logps + gap
