"""What is rounding and no signal. Pure functions: tensors in, tensors out.

Adam makes a full step of any gradient, however small, so a difference that is rounding alone has to be exactly 0: where every
completion has the same reward, the policy stays where it is. Letters: B completions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bakeoff.envs.precision import accurate

ROUNDING = 1e-6
"""Numbers that differ by less than this share of their size are the same: eight steps of float32, in which models compute."""


def relative_scores(scores_B: Tensor, groups_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scores less the mean of their group, and that mean, each (B,) in float64.

    In a group whose scores differ by rounding alone all are exactly 0. The same scores plus a constant, of any size, give the same
    result up to the last digits of a float64.

    Args:
        scores_B: any finite numbers.
        groups_B: rows of equal number belong together (int64); None: all do.
    """
    scores_B = scores_B.to(accurate(scores_B.device))
    groups_B = torch.zeros_like(scores_B, dtype=torch.int64) if groups_B is None else groups_B.to(scores_B.device)
    _, group_B = torch.unique(groups_B, return_inverse=True)
    zeros_G = scores_B.new_zeros(int(group_B.max()) + 1)
    counts_G = zeros_G.index_add(0, group_B, torch.ones_like(scores_B))
    means_B = (zeros_G.index_add(0, group_B, scores_B) / counts_G)[group_B]
    high_B = zeros_G.scatter_reduce(0, group_B, scores_B, "amax", include_self=False)[group_B]
    low_B = zeros_G.scatter_reduce(0, group_B, scores_B, "amin", include_self=False)[group_B]
    differ_B = high_B - low_B > ROUNDING * torch.maximum(high_B.abs(), low_B.abs())
    return torch.where(differ_B, scores_B - means_B, 0.0), means_B


def scores_from(origin: float, scores_B: Tensor) -> Tensor:
    """Scores less a fixed number, shape (B,) in float64; exactly 0 where they differ from it by rounding alone."""
    relative_B = scores_B.to(accurate(scores_B.device)) - origin
    return torch.where(relative_B.abs() > ROUNDING * abs(origin), relative_B, 0.0)


def neighbors(count: int, group_size: int) -> Tensor:
    """Group numbers of rows of which ``group_size`` consecutive ones belong together, int64 (count,)."""
    return torch.arange(count) // group_size


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
