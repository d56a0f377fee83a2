"""One optimizer step on pairs, and its figures: what `dpo`, its variants, and whoever else makes pairs have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import mean_metrics
from bakeoff.algos.losses.preference import PreferenceLoss, PreferenceLossType, preference_loss
from bakeoff.algos.preference_data.pairs import Pairs, pair_logps

MOMENTS = ("margin_reward", "margin_square", "reward_square")
"""Figures that :func:`mean_pair_metrics` turns into a correlation."""


@dataclass(frozen=True)
class PreferenceObjective:
    """What is minimized over pairs."""

    beta: float
    """Of the loss (see :func:`~bakeoff.algos.losses.preference.preference_loss`)."""
    loss_type: PreferenceLossType = "sigmoid"
    """Which loss."""
    label_smoothing: float = 0.0
    """Probability with which a label is taken to be wrong."""
    supervised_coef: float = 0.0
    """Weight of the chosen completion's negative log-likelihood a token."""
    length_normalization: bool = False
    """Log-probabilities are means over a completion's tokens in place of sums."""
    reference_free: bool = False
    """The reference is left out of the loss."""
    target_margin: float = 0.0
    """Taken off beta times the margin."""

    def of(
        self, policy_logps_B2: Tensor, reference_logps_B2: Tensor, lengths_B2: Tensor, preference_B: Tensor
    ) -> tuple[Tensor, PreferenceLoss]:
        """The mean over pairs (a scalar), and the preference part of it.

        Args:
            policy_logps_B2: log-probability of each whole completion under the policy, chosen first.
            reference_logps_B2: under the reference.
            lengths_B2: real tokens of each.
            preference_B: probability that the chosen one is the better.
        """
        device = policy_logps_B2.device
        lengths_B2 = lengths_B2.to(device).clamp_min(1)
        reference_B2 = reference_logps_B2.to(device) * (0.0 if self.reference_free else 1.0)
        scale_B2 = 1 / lengths_B2 if self.length_normalization else torch.ones_like(policy_logps_B2)
        ours_B2, theirs_B2 = policy_logps_B2 * scale_B2, reference_B2 * scale_B2
        preferences = preference_loss(
            ours_B2[:, 0], ours_B2[:, 1], theirs_B2[:, 0], theirs_B2[:, 1], beta=self.beta, loss_type=self.loss_type,
            label_smoothing=self.label_smoothing, preference=preference_B.to(device), target_margin=self.target_margin,
        )  # fmt: skip
        loss = preferences.loss
        if self.supervised_coef:
            loss = loss - self.supervised_coef * (policy_logps_B2[:, 0] / lengths_B2[:, 0]).mean()
        return loss, preferences

    def of_pairs(self, policy_logps_B2: Tensor, pairs: Pairs) -> tuple[Tensor, PreferenceLoss]:
        """The same of kept pairs."""
        return self.of(policy_logps_B2, pairs.reference_logps_B2, pairs.lengths_B2, pairs.preference_B)


def learn_pairs(
    policy: Policy, optimizer: Optimizer, pairs: Pairs, objective: PreferenceObjective, progress: float
) -> dict[str, float]:
    """One step on a batch of pairs, whatever parts it is walked through in.

    Args:
        policy: the model that learns.
        optimizer: over its parameters; its ``micro_batch_size`` is the most completions in a forward pass, two a pair.
        pairs: the batch.
        objective: what is minimized.
        progress: share of the training that is done, for the learning rate.

    Returns:
        Figures of the batch before the step; :func:`mean_pair_metrics` makes the metrics of an update of them.
    """

    def loss_of(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        part = pairs.select(rows)
        logps_B2 = pair_logps(policy, part)
        loss, preferences = objective.of_pairs(logps_B2, part)
        return loss, {"loss": loss, **figures(logps_B2, preferences, part.reward_margin_B)}

    rows = torch.argsort(pairs.lengths_B2.amax(1), stable=True)  # a micro-batch holds little padding then
    return optimizer.step_rows(rows, torch.ones_like(rows), loss_of, progress, completions_a_row=2)


@torch.no_grad()
def figures(logps_B2: Tensor, preferences: PreferenceLoss, reward_margin_B: Tensor) -> dict[str, Tensor]:
    """Means over pairs of what one watches in preference optimization, and of the moments of the correlation with the reward."""
    margins_B, rewards_B = preferences.margins_B, reward_margin_B.to(logps_B2.device)
    known_B = rewards_B.isfinite()
    rewards_B = rewards_B.where(known_B, 0.0)
    return {
        "margin": margins_B.mean(),
        "accuracy": preferences.accuracies_B.mean(),
        "chosen_reward": preferences.chosen_rewards_B.mean(),
        "rejected_reward": preferences.rejected_rewards_B.mean(),
        "chosen_logps": logps_B2[:, 0].mean(),
        "rejected_logps": logps_B2[:, 1].mean(),
        "margin_reward": (margins_B * rewards_B).mean(),
        "margin_square": (margins_B**2 * known_B).mean(),
        "reward_square": (rewards_B**2).mean(),
    }


def mean_pair_metrics(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of an update from the figures of its steps.

    `proxy_correlation` is between differences within pairs, of implicit reward and of reward, about zero:
    E[m d] / sqrt(E[m^2] E[d^2]). It does not depend on which side is called chosen, nor on what all completions of a prompt have in
    common (log Z), of which the implicit reward knows nothing. 0 while the policy is the reference; left out where no reward is
    known.
    """
    metrics = mean_metrics(steps)
    product, margin_square, reward_square = (metrics.pop(name) for name in MOMENTS)
    if reward_square > 0:
        metrics["proxy_correlation"] = product / math.sqrt(max(margin_square * reward_square, 1e-30))
    return metrics
