"""What is minimized over pairs, its settings and its figures; `dpo`, `online_dpo` and `constitutional` share them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import mean_metrics
from bakeoff.algos.losses.preference import PreferenceLoss, PreferenceLossType
from bakeoff.algos.preference_data.label_temperature import TemperatureSetting, check_temperature, resolve_beta
from bakeoff.algos.preference_data.labels import Labels
from bakeoff.errors import ConfigError

MOMENTS = ("margin_reward", "margin_square", "reward_square")
"""Figures that :func:`mean_pair_metrics` turns into a correlation."""


@dataclass(frozen=True)
class PreferenceObjective:
    """What is minimized over pairs."""

    beta: float
    """The loss's beta (see :func:`~bakeoff.algos.losses.preference.preference_loss`)."""
    loss_type: PreferenceLossType = "sigmoid"
    """Which loss."""
    label_smoothing: float = 0.0
    """Probability with which a label is taken to be wrong."""
    supervised_coef: float = 0.0
    """Weight of the chosen completion's negative log-likelihood per token."""
    length_normalization: bool = False
    """Log-probabilities are means over a completion's tokens instead of sums."""
    reference_free: bool = False
    """The reference is left out of the loss."""
    target_margin: float = 0.0
    """Taken off beta times the margin."""


class PreferenceConfig(AlgorithmConfig):
    """Settings of the algorithms that learn from pairs."""

    loss_type: PreferenceLossType = "sigmoid"
    """`sigmoid` (DPO), `ipo`, `hinge` (SLiC), `robust` (with label_smoothing), `exo` (with label_smoothing or soft labels),
    `sppo`."""
    beta: float | None = Field(default=None, gt=0)
    """The loss's beta. Default: kl_coef / label_temperature, whose optimum is that of the task's objective where labels are
    Bradley-Terry's (see docs/preference-optimization.md); 0.1 with `labels: deterministic`, which have no finite optimum."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability with which a label is taken to be wrong."""
    supervised_coef: float = Field(default=0.0, ge=0)
    """Weight of the chosen completion's negative log-likelihood per token, against a falling likelihood of both."""
    length_normalization: bool = False
    """Log-probabilities are means over a completion's tokens instead of sums; changes the objective."""
    reference_free: bool = False
    """Leave the reference out of the loss; changes the objective."""
    target_margin: float = Field(default=0.0, ge=0)
    """Taken off beta times the margin (SimPO's gamma); changes the objective."""
    labels: Labels = "bradley_terry"
    """How the reward labels pairs that were made here: `bradley_terry` draws the better one with probability
    sigmoid(difference / label_temperature), `deterministic` takes the greater reward, `soft` keeps that probability as the
    label. Equal rewards are labeled one half."""
    label_temperature: TemperatureSetting = "auto"
    """Tau: by how much rewards have to differ for a label to be clear. `auto` measures it on the first pairs made whose rewards
    differ, so that 88 % of drawn labels are expected to be right, or soft ones have a mean probability of .75; 1 for given pairs.
    Not for `labels: deterministic`."""

    @model_validator(mode="after")
    def _losses_have_what_they_need(self) -> PreferenceConfig:
        if self.loss_type == "exo" and not self.label_smoothing and self.labels != "soft":
            raise ValueError('loss_type exo is infinite for certain labels; give "label_smoothing", or labels: soft')
        if self.loss_type == "sppo" and self.target_margin:
            raise ValueError('loss_type sppo has no margin; leave out "target_margin"')
        check_temperature(self.labels, self.label_temperature)
        return self

    def objective(self, algorithm: str, kl_coef: float, temperature: float) -> PreferenceObjective:
        """What is minimized.

        Args:
            algorithm: its name, for messages.
            kl_coef: what a nat of KL costs, in units of reward.
            temperature: tau of the labels, in units of reward.

        Raises:
            ConfigError: a KL coefficient of 0, which leaves no finite optimum, and no ``beta``.
        """
        beta = resolve_beta(self.beta, self.labels, kl_coef, temperature)
        if beta <= 0:
            raise ConfigError(
                algorithm, ['kl_coef is 0, so the loss has no finite optimum; give "beta", or a kl_coef above 0']
            )
        return PreferenceObjective(
            beta=beta,
            loss_type=self.loss_type,
            label_smoothing=self.label_smoothing,
            supervised_coef=self.supervised_coef,
            length_normalization=self.length_normalization,
            reference_free=self.reference_free,
            target_margin=self.target_margin,
        )


@torch.no_grad()
def pair_figures(logps_B2: Tensor, preferences: PreferenceLoss, reward_margin_B: Tensor) -> dict[str, Tensor]:
    """Means over pairs of the usual figures of preference optimization, and of the moments of the correlation with the reward."""
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
