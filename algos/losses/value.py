"""The maths of value learning on token sequences. Pure functions: tensors in, tensors out.

Letters: B completions, T tokens, V vocabulary. Every mask is True on real completion tokens, end-of-sequence included, and has
no gap. The token MDP is deterministic: state s_t is the prompt and t tokens, the reward comes with the last token, discount 1
unless said otherwise. Past the last token the value is 0, whether the completion ended or was cut: the limit is part of the task.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Backup = Literal["sequence", "subtrajectories", "steps"]


def soft_value(action_values: Tensor, reference_logprobs: Tensor, beta: float) -> Tensor:
    """V(s) = beta log sum_a ref(a|s) exp(Q(s, a) / beta), over the last dimension (Haarnoja et al. 2017, equation 5).

    Args:
        action_values: Q, shape (.., V); -inf on what cannot be chosen.
        reference_logprobs: log ref(a|s), shape (.., V).
        beta: the KL coefficient, above 0.
    """
    return beta * (reference_logprobs + action_values / beta).logsumexp(-1)


def soft_backup(rewards: Tensor, next_values: Tensor, ended: Tensor) -> Tensor:
    """Q(s, a) = r(s, a) + V(s'), without V(s') where the token is the completion's last; any shape."""
    return rewards + torch.where(ended, 0.0, next_values)


def terminal_rewards(scores_B: Tensor, mask_BT: Tensor) -> Tensor:
    """The score at each completion's last real token, 0 elsewhere, shape (B, T)."""
    last_B1 = (mask_BT.sum(1, keepdim=True) - 1).clamp_min(0)
    return torch.zeros(mask_BT.shape, device=mask_BT.device).scatter(1, last_B1, scores_B[:, None].float())


def next_state_values(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The value after each token: that of the next state, and 0 after the last token, shape (B, T)."""
    return torch.nn.functional.pad((values_BT * mask_BT)[:, 1:], (0, 1))


def path_residuals(soft_rewards_BT: Tensor, values_BT: Tensor, next_values_BT: Tensor) -> Tensor:
    """What each stretch of a completion leaves unexplained, shape (B, T, T) (path consistency: Nachum et al. 2017, equation 15).

    Entry (i, j) belongs to the stretch from token i to token j, both included: sum of (r - beta log(pi/ref)) along it, plus the
    value after j, less the value before i. Every stretch of every completion, from any policy, is 0 at pi* and V*, and only
    there. Entries with j < i are meaningless (see :func:`path_weights`).

    Args:
        soft_rewards_BT: r_t - beta * (log pi - log ref) of the chosen tokens; 0 outside the mask.
        values_BT: V before each token.
        next_values_BT: V after each token, 0 after the last; for example from a slowly moving copy.
    """
    upto_BT = soft_rewards_BT.cumsum(1)
    before_BT = upto_BT - soft_rewards_BT
    return (upto_BT + next_values_BT)[:, None, :] - (before_BT + values_BT)[:, :, None]


def path_weights(mask_BT: Tensor, backup: Backup, *, steps: int = 1, decay: float = 1.0) -> Tensor:
    """Which stretches count how much, shape (B, T, T); each completion's weights add up to 1.

    Args:
        mask_BT: the real tokens.
        backup: `sequence`: the whole completion; `steps`: from each token, `steps` tokens on or to the end;
            `subtrajectories`: all, one of n tokens weighing decay^(n - 1) (Madan et al. 2023).
        steps: for `steps`.
        decay: for `subtrajectories`.
    """
    T = mask_BT.shape[1]
    start, end = torch.arange(T, device=mask_BT.device)[:, None], torch.arange(T, device=mask_BT.device)[None, :]
    last_B11 = (mask_BT.sum(1) - 1)[:, None, None]
    match backup:
        case "sequence":
            chosen = (start == 0) & (end == last_B11)
        case "steps":
            chosen = (start <= last_B11) & (end == torch.minimum(start + steps - 1, last_B11))
        case "subtrajectories":
            chosen = (start <= end) & (end <= last_B11)
    weights = chosen * (decay ** (end - start).clamp_min(0).float() if backup == "subtrajectories" else 1.0)
    total: Tensor = weights.sum((1, 2), keepdim=True)
    return weights / total.clamp_min(1e-12)


def group_means(values_B: Tensor, groups_B: Tensor, weights_B: Tensor | None = None) -> Tensor:
    """The (weighted) mean of each row's group, at each row, shape (B,)."""
    weights_B = torch.ones_like(values_B) if weights_B is None else weights_B.to(values_B.dtype)
    _, group_B = torch.unique(groups_B, return_inverse=True)
    sums_G = torch.zeros(int(group_B.max()) + 1, dtype=values_B.dtype, device=values_B.device)
    totals_G = sums_G.index_add(0, group_B, weights_B).clamp_min(1e-12)
    return (sums_G.index_add(0, group_B, weights_B * values_B) / totals_G)[group_B]


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    """|tau - [u < 0]| u^2 of each error u = target - prediction (Kostrikov et al. 2022, equation 4); any shape.

    Its minimizer is the tau-expectile of the targets: their mean at tau = .5, their maximum as tau goes to 1.
    """
    return (expectile - (errors < 0).to(errors.dtype)).abs() * errors**2


def conservative_term(logsumexp: Tensor, chosen_values: Tensor) -> Tensor:
    """log sum_a exp Q(s, a) - Q(s, chosen): never below 0; pulls down what was not tried (Kumar et al. 2020, CQL(H)); any shape.

    It is the cross-entropy of the chosen action with Q as logits (Snell et al. 2023).
    """
    return logsumexp - chosen_values


def max_backup(target_values: Tensor, online_values: Tensor | None = None) -> Tensor:
    """The value of the best action under the target network, over the last dimension (Mnih et al. 2015).

    With ``online_values`` the online network chooses and the target network judges: double Q-learning (van Hasselt et al. 2016).
    """
    if online_values is None:
        return target_values.amax(-1)
    return target_values.gather(-1, online_values.argmax(-1, keepdim=True))[..., 0]
