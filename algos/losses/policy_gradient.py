"""Losses. Pure functions: tensors in, a scalar and its diagnostics out.

Letters: B completions, T tokens. Every mask is True on real completion tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bakeoff.algos.losses.advantages import masked_mean
from bakeoff.envs.precision import accurate

LARGEST = 40.0
"""Nats at which a whole completion's log-ratio is cut before its square is taken in float32."""

Reduce = Callable[[Tensor, Tensor], Tensor]
"""From values and their mask, each (B, T), to a scalar."""

LengthNormalization = Literal["completion", "batch", "limit"]


def completion_average(values_BT: Tensor, mask_BT: Tensor, *, by: LengthNormalization, limit: int) -> Tensor:
    """Average a per-token loss over a batch of completions of different lengths (a scalar).

    Args:
        values_BT: the loss of each token.
        mask_BT: the real tokens.
        by: ``completion``: mean over each completion's own tokens, then over completions (GRPO, Shao et al. 2024,
            equation 3), so a token of a long completion counts less; ``batch``: mean over all tokens (DAPO, Yu et al.
            2025, equation 8); ``limit``: sum over tokens divided by B and by a constant (Dr. GRPO, Liu et al. 2025).
        limit: that constant, the length limit.
    """
    if by == "batch":
        return masked_mean(values_BT, mask_BT)
    sums_B = (values_BT * mask_BT).sum(1)
    return (sums_B / (mask_BT.sum(1).clamp_min(1) if by == "completion" else limit)).mean()


@dataclass(frozen=True)
class SurrogateLoss:
    """The clipped surrogate and what it was made of."""

    loss: Tensor
    """Scalar to minimize."""
    ratio_mean: Tensor
    """Mean probability ratio; 1 while the policy is the one that sampled."""
    clip_fraction: Tensor
    """Share of tokens at which the clipped term is the one that counts."""
    approximate_kl: Tensor
    """Mean of r - 1 - log r per token: KL(old || new), the k3 estimate on the old policy's samples."""
    weight: Tensor
    """Mean of w, the ratio of a whole completion's probabilities, at each of its tokens."""
    weight_square: Tensor
    """Mean of w^2 likewise."""

    def figures(self) -> dict[str, Tensor]:
        """The figures under the names that all algorithms use; :func:`with_sample_size` joins the last two."""
        return {
            "policy_loss": self.loss,
            "ratio": self.ratio_mean,
            "clip_fraction": self.clip_fraction,
            "approximate_kl": self.approximate_kl,
            "weight": self.weight,
            "weight_square": self.weight_square,
        }


def with_sample_size(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of an update with `effective_sample_size`, (E w)^2 / E w^2, in place of the two moments.

    The share of the batch that would say as much about the policy as it is now, had it sampled them itself (Kish 1965): 1 while it
    is the one that sampled.
    """
    rest = {name: value for name, value in metrics.items() if name not in ("weight", "weight_square")}
    return {**rest, "effective_sample_size": metrics["weight"] ** 2 / max(metrics["weight_square"], 1e-300)}


def clipped_surrogate(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    reduce: Reduce = masked_mean,
) -> SurrogateLoss:
    """PPO's policy loss, -min(r A, clip(r, 1 - e, 1 + e) A) averaged over real tokens (Schulman et al. 2017, equation 7).

    Args:
        logprobs_BT: of the sampled tokens under the policy being trained.
        old_logprobs_BT: under the policy that sampled them; no gradient.
        advantages_BT: how much better than expected each token was.
        mask_BT: the real tokens.
        clip: e, how far the ratio may leave 1 before its gradient stops.
        reduce: how token losses are averaged.
    """
    ratios = torch.ones_like(logprobs_BT)
    return _surrogate(
        logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT, low=ratios - clip, high=ratios + clip, reduce=reduce
    )


def _surrogate(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    low: Tensor,
    high: Tensor,
    reduce: Reduce,
) -> SurrogateLoss:
    """The surrogate whose ratio is clipped to [low, high], each broadcast to (B, T)."""
    log_ratio = (logprobs_BT - old_logprobs_BT) * mask_BT
    ratio = log_ratio.exp()
    unclipped = -advantages_BT * ratio
    clipped = -advantages_BT * ratio.clamp(low, high)
    with torch.no_grad():
        return_ratio = masked_mean(ratio, mask_BT)
        clip_fraction = masked_mean((clipped > unclipped).to(ratio.dtype), mask_BT)
        approximate_kl = masked_mean(ratio - 1 - log_ratio, mask_BT)
        whole_B1 = log_ratio.sum(1, keepdim=True).to(accurate(log_ratio.device)).clamp(-LARGEST, LARGEST).exp()
        weight, weight_square = masked_mean(whole_B1, mask_BT), masked_mean(whole_B1**2, mask_BT)
    loss = reduce(torch.maximum(unclipped, clipped), mask_BT)
    return SurrogateLoss(loss, return_ratio, clip_fraction, approximate_kl, weight, weight_square)


def sequence_surrogate(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_B: Tensor, lengths_B: Tensor, *, clip: float
) -> SurrogateLoss:
    """The clipped surrogate with the whole completion as one action: r is the ratio of its probabilities.

    The ratio of a completion of n tokens is the product of theirs, whose logarithms add up like a random walk while the policy's
    steps are small: it is clipped to (1 + clip)^(+-sqrt(n)), which at .4 is 1.4 for one token, 5.2 for 24 and 117 for 200.

    Args:
        logprobs_BT: of the sampled tokens under the policy being trained, 0 on padding.
        old_logprobs_BT: under the policy that sampled them, 0 on padding; no gradient.
        advantages_B: how much better than expected each completion was.
        lengths_B: n, real tokens of each.
        clip: how far the ratio of one token may leave 1.
    """
    whole_B1 = torch.ones_like(advantages_B, dtype=torch.bool)[:, None]
    logprobs_B1, old_logprobs_B1 = logprobs_BT.sum(1, keepdim=True), old_logprobs_BT.sum(1, keepdim=True)
    high_B1 = (math.log1p(clip) * lengths_B[:, None].to(logprobs_B1.dtype).sqrt()).exp()
    return _surrogate(
        logprobs_B1, old_logprobs_B1, advantages_B[:, None], whole_B1, low=1 / high_B1, high=high_B1, reduce=masked_mean
    )


def score_function_loss(logprobs_BT: Tensor, advantages_B: Tensor) -> Tensor:
    """-A log pi(completion), averaged over completions (a scalar): its gradient is REINFORCE's (Williams 1992).

    Args:
        logprobs_BT: of the sampled tokens, 0 on padding.
        advantages_B: return less baseline of each completion; no gradient.
    """
    return -(advantages_B * logprobs_BT.sum(1)).mean()


def clipped_value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, *, clip: float | None
) -> Tensor:
    """Half the mean squared error of the values, the larger of plain and clipped (Ziegler et al. 2019; no clip where None)."""
    error = (values_BT - returns_BT) ** 2
    if clip is not None:
        near_old = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
        error = torch.maximum(error, (near_old - returns_BT) ** 2)
    return 0.5 * masked_mean(error, mask_BT)
