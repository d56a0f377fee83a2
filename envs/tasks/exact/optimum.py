"""The optimum, and the value of any policy, when every completion can be listed: pure functions of tables.

Letters: Q prompts, N complete sequences, M nodes of a level, V vocabulary. Log-probabilities are normalized along N.
Beta is the KL coefficient, in units of reward per nat; at 0 the limit is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bakeoff.envs.tasks.exact.tree import CompletionTree
from bakeoff.errors import UserError


def expectation(logprobs_QN: Tensor, values_QN: Tensor) -> Tensor:
    """E[values] for each prompt, (Q,); what has probability 0 counts nothing, be its value infinite."""
    probs_QN = logprobs_QN.exp()
    return torch.where(probs_QN > 0, probs_QN * values_QN, 0.0).sum(-1)


def kl_divergence(logprobs_QN: Tensor, reference_logprobs_QN: Tensor) -> Tensor:
    """KL(policy || reference) in nats for each prompt, (Q,)."""
    return expectation(logprobs_QN, logprobs_QN - reference_logprobs_QN)


def entropy(logprobs_QN: Tensor) -> Tensor:
    """Entropy in nats per sequence for each prompt, (Q,)."""
    return expectation(logprobs_QN, -logprobs_QN)


def tilt(reference_logprobs_QN: Tensor, rewards_QN: Tensor, beta: float) -> Tensor:
    """Log of pi* = pi_ref exp(r / beta) / Z, the maximizer of E[r] - beta KL, (Q, N).

    At beta 0 it is the reference restricted to the best rewards.
    """
    if beta == 0:
        scores = reference_logprobs_QN.masked_fill(rewards_QN < rewards_QN.amax(-1, keepdim=True), -torch.inf)
    else:
        scores = reference_logprobs_QN + rewards_QN / beta
    return scores.log_softmax(-1)


def best_of_n(reference_logprobs_QN: Tensor, rewards_QN: Tensor, n: int) -> Tensor:
    """Log of the exact distribution of the best of n samples of the reference, (Q, N), float64.

    With F(r) the probability of a reward of at most r, and F(r-) of less, the best has reward r with probability
    F(r)^n - F(r-)^n. Sequences of equal reward share it in proportion to their reference probability: the first of
    equals is kept, and samples are exchangeable.

    Raises:
        UserError: n is below 1.
    """
    if n < 1:
        raise UserError(f"best of n needs n of at least 1, got {n}")
    reference = reference_logprobs_QN.double().log_softmax(-1)
    if n == 1:
        return reference
    best = torch.empty_like(reference)
    for row, (logprobs_N, rewards_N) in enumerate(zip(reference, rewards_QN, strict=True)):
        _, tie_N = rewards_N.unique(return_inverse=True)  # tie groups, numbered from the lowest reward
        mass_G = torch.zeros(int(tie_N.max()) + 1, dtype=torch.float64).index_add(0, tie_N, logprobs_N.exp())
        upto_G = mass_G.cumsum(0)
        # F^n - (F - m)^n = F^n (1 - (1 - m/F)^n), the bracket by expm1 and log1p: m may be far below F's rounding. The
        # lowest group has m = F and the bracket 1.
        share_G = (mass_G / upto_G).clamp(max=1.0)
        bracket_G = -torch.expm1(n * torch.log1p(-share_G))
        best[row] = logprobs_N + (n * upto_G.log() + bracket_G.log() - mass_G.log())[tie_N]
    return best.log_softmax(-1)


def win_rate(logprobs_QN: Tensor, opponent_logprobs_QN: Tensor, rewards_QN: Tensor) -> Tensor:
    """Probability that a sample's reward beats an independent sample of the opponent, ties one half, (Q,)."""
    rates = []
    for ours_N, theirs_N, rewards_N in zip(logprobs_QN.exp(), opponent_logprobs_QN.exp(), rewards_QN, strict=True):
        _, tie_N = rewards_N.unique(return_inverse=True)
        zeros_G = torch.zeros(int(tie_N.max()) + 1, dtype=ours_N.dtype)
        ours_G, theirs_G = zeros_G.index_add(0, tie_N, ours_N), zeros_G.index_add(0, tie_N, theirs_N.to(ours_N.dtype))
        rates.append((ours_G * (theirs_G.cumsum(0) - theirs_G / 2)).sum())
    return torch.stack(rates)


@dataclass(frozen=True, eq=False)
class SoftTables:
    """V* and Q* of the token MDP, a table for each length of prefix; level t's nodes are ``tree.node_tokens(t)``."""

    values: list[Tensor]
    """V*(s) for each level, (Q, M), in units of reward."""
    action_values: list[Tensor]
    """Q*(s, a) for each level, (Q, M, V); -inf for a token that cannot be sampled."""
    logprobs: list[Tensor]
    """log pi*(a | s) for each level, (Q, M, V): log pi_ref(a | s) + (Q* - V*) / beta."""


def soft_bellman(tree: CompletionTree, reference_logprobs_QN: Tensor, rewards_QN: Tensor, beta: float) -> SoftTables:
    """Soft value iteration from the leaves up; exact after one pass, since the MDP is a tree.

    V(s) = beta log sum_a pi_ref(a|s) exp(Q(s,a) / beta), with Q(s,a) = r where ``a`` completes the sequence and V(s')
    where it continues: the reward comes at the end, discount 1.

    Raises:
        UserError: beta is not above 0.
    """
    if not beta > 0:
        raise UserError(f"the soft Bellman equation needs beta above 0, got {beta}")
    reference = tree.conditionals(reference_logprobs_QN)

    def value(level: int, action_values_QMV: Tensor) -> Tensor:
        return beta * (reference[level] + action_values_QMV / beta).logsumexp(-1)

    action_values = tree.fold(rewards_QN, value)
    values = [value(level, table) for level, table in enumerate(action_values)]
    logprobs = [r + (q - v.unsqueeze(-1)) / beta for r, q, v in zip(reference, action_values, values, strict=True)]
    return SoftTables(values, action_values, logprobs)
