"""From rewards to advantages. Pure functions: tensors in, tensors out.

Letters: B completions, T tokens. Every mask is True on real completion tokens, end-of-sequence included, and has no gap:
a row is real up to its length and padding from there.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP_EPSILON = 1e-4
"""Added to a group's deviation, so that returns which hardly differ do not count as much as those that do."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the places where ``mask`` is True (a scalar); 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Divide by the standard deviation over the real places, after taking off the mean; 0 outside the mask.

    Args:
        values: shape (B, T).
        mask: shape (B, T).
        shift_mean: keep the mean where False.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    scaled = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (scaled if shift_mean else scaled + mean) * mask


def kl_shaped_rewards(
    scores_B: Tensor, logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, kl_coef: float
) -> Tensor:
    """Per-token rewards: -beta * log(pi/ref) at each real token, plus the score at the last one, shape (B, T).

    Summed along a row they give score - beta * log-ratio of the sequence, whose mean is the objective J (Ziegler et al.
    2019, equation 2). A truncated completion gets its score at its last real token like any other: the length limit is
    part of the task.
    """
    rewards_BT = -kl_coef * (logprobs_BT - reference_logprobs_BT) * mask_BT
    last_B1 = (mask_BT.sum(1, keepdim=True) - 1).clamp_min(0)
    return rewards_BT.scatter_add(1, last_B1, scores_B[:, None].to(rewards_BT.dtype))


def leave_one_out_advantages(returns_B: Tensor, group_size: int) -> Tensor:
    """Each return minus the mean of the others in its group, shape (B,) (RLOO: Kool et al. 2019, Ahmadian et al. 2024).

    A_i = R_i - (1 / (k - 1)) sum_{j != i} R_j = k / (k - 1) * (R_i - mean R). The baseline does not depend on its own
    completion, so the gradient is unbiased.

    Args:
        returns_B: ``group_size`` consecutive rows share a prompt.
        group_size: k, at least 2.
    """
    groups = returns_B.reshape(-1, group_size)
    baseline = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - baseline).flatten().float()


def group_advantages(returns_B: Tensor, group_size: int, *, normalize: bool) -> Tensor:
    """Each return minus its group's mean, over the group's standard deviation, shape (B,) (GRPO: Shao et al. 2024).

    Args:
        returns_B: ``group_size`` consecutive rows share a prompt.
        group_size: at least 2.
        normalize: divide by the deviation (of a sample: over k - 1); Dr. GRPO (Liu et al. 2025) does not, since that
            gives prompts whose completions hardly differ the weight of those that tell them apart.
    """
    groups = returns_B.reshape(-1, group_size)
    centered = groups - groups.mean(1, keepdim=True)
    if normalize:
        centered = centered / (groups.std(1, keepdim=True) + GROUP_EPSILON)
    return centered.flatten().float()


def generalized_advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, each (B, T), 0 outside the mask (Schulman et al. 2016, equation 16).

    A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t, and the return is A_t + V_t. Nothing is
    bootstrapped past a completion's last token: whether it ended or was cut, its whole reward is in.
    """
    advantages = torch.zeros_like(rewards_BT)
    running_B = torch.zeros_like(rewards_BT[:, 0])
    next_value_B = torch.zeros_like(running_B)
    for t in reversed(range(rewards_BT.shape[1])):
        alive_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        running_B = torch.where(alive_B, delta_B + gamma * lam * running_B, 0.0)
        next_value_B = torch.where(alive_B, values_BT[:, t], 0.0)
        advantages[:, t] = running_B
    return advantages, (advantages + values_BT) * mask_BT


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the real places: 1 is perfect, 0 is no better than a constant."""
    real_values, real_returns = values[mask], returns[mask]
    variance = real_returns.var(unbiased=False)
    if real_returns.numel() < 2 or float(variance) == 0.0:
        return 0.0
    return float(1 - (real_returns - real_values).var(unbiased=False) / variance)
