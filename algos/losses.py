"""Losses. Pure functions: tensors in, a scalar and its diagnostics out.

Letters: B completions, T tokens. Every mask is True on real completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bakeoff.algos.advantages import masked_mean


@dataclass(frozen=True)
class SurrogateLoss:
    """The clipped surrogate and what it was made of."""

    loss: Tensor
    """Scalar to minimise."""
    ratio_mean: Tensor
    """Mean probability ratio; 1 while the policy is the one that sampled."""
    clip_fraction: Tensor
    """Share of tokens at which the clipped term is the one that counts."""
    approximate_kl: Tensor
    """Mean of r - 1 - log r a token: KL(old || new), the k3 estimate on the old policy's samples."""


def clipped_surrogate(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, *, clip: float
) -> SurrogateLoss:
    """PPO's policy loss, -min(r A, clip(r, 1 - e, 1 + e) A) averaged over real tokens (Schulman et al. 2017, equation 7).

    Args:
        logprobs_BT: of the sampled tokens under the policy being trained.
        old_logprobs_BT: under the policy that sampled them; no gradient.
        advantages_BT: how much better than expected each token was.
        mask_BT: the real tokens.
        clip: e, how far the ratio may leave 1 before its gradient stops.
    """
    log_ratio = (logprobs_BT - old_logprobs_BT) * mask_BT
    ratio = log_ratio.exp()
    unclipped = -advantages_BT * ratio
    clipped = -advantages_BT * ratio.clamp(1 - clip, 1 + clip)
    with torch.no_grad():
        return_ratio = masked_mean(ratio, mask_BT)
        clip_fraction = masked_mean((clipped > unclipped).to(ratio.dtype), mask_BT)
        approximate_kl = masked_mean(ratio - 1 - log_ratio, mask_BT)
    return SurrogateLoss(
        masked_mean(torch.maximum(unclipped, clipped), mask_BT), return_ratio, clip_fraction, approximate_kl
    )


def clipped_value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, *, clip: float | None
) -> Tensor:
    """Half the mean squared error of the values, the larger of plain and clipped (Ziegler et al. 2019; no clip where None)."""
    error = (values_BT - returns_BT) ** 2
    if clip is not None:
        near_old = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
        error = torch.maximum(error, (near_old - returns_BT) ** 2)
    return 0.5 * masked_mean(error, mask_BT)
