"""Losses of direct preference optimization. Pure functions: log-probabilities of whole completions in, losses per pair out.

Each has one number per *pair*, from log-probabilities summed over a completion's tokens: a pair of long completions counts as
much as a pair of short ones. Letters: B pairs (or, in :func:`kto_loss`, B completions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bakeoff.errors import UserError
from bakeoff.names import did_you_mean

PreferenceLossType = Literal["sigmoid", "ipo", "hinge", "robust", "exo", "sppo"]


@dataclass(frozen=True)
class PreferenceLoss:
    """The losses and what they were made of."""

    losses_B: Tensor
    """The loss of each pair."""
    chosen_rewards_B: Tensor
    """Implicit reward of each chosen completion, beta * log(pi/ref); no gradient."""
    rejected_rewards_B: Tensor
    """The same of each rejected one."""

    @property
    def loss(self) -> Tensor:
        """The mean over pairs, a scalar to minimize."""
        return self.losses_B.mean()

    @property
    def margins_B(self) -> Tensor:
        """How much more implicit reward the chosen completion has."""
        return self.chosen_rewards_B - self.rejected_rewards_B

    @property
    def accuracies_B(self) -> Tensor:
        """1 where the chosen completion has the greater implicit reward, one half where both have the same."""
        return 0.5 + 0.5 * self.margins_B.sign()


def preference_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
    loss_type: PreferenceLossType = "sigmoid",
    label_smoothing: float = 0.0,
    preference: Tensor | None = None,
    target_margin: float = 0.0,
) -> PreferenceLoss:
    """The loss of each pair, from h = log(pi/ref)(chosen) - log(pi/ref)(rejected).

    - ``sigmoid``: -log sigmoid(beta h) (DPO, Rafailov et al. 2023, equation 7).
    - ``ipo``: (h - 1/(2 beta))^2 (Azar et al. 2023, equation 17).
    - ``hinge``: max(0, 1 - beta h) (SLiC, Zhao et al. 2023, on DPO's margin).
    - ``robust``: ((1 - e) L(h) - e L(-h)) / (1 - 2 e) with L of ``sigmoid``: unbiased where a share e of the labels is flipped
      (Chowdhury et al. 2024); e is the label smoothing.
    - ``exo``: KL(q || p) for q = sigmoid(beta h) and p the label (Ji et al. 2024, equation 16), the reverse of ``sigmoid``'s
      divergence. Infinite for a label of 1: it asks for label smoothing or for soft labels.
    - ``sppo``: (log(pi/ref)(chosen) - 1/(2 beta))^2 + (log(pi/ref)(rejected) + 1/(2 beta))^2, which asks for more than a margin
      (Wu et al. 2024, equation 4.7).

    A label that says "chosen is better with probability p" makes p L(pair) + (1 - p) L(pair with its sides exchanged) of every loss
    but ``exo``, which takes p as it is.

    Args:
        policy_chosen_logps: log pi of the chosen completions, summed over tokens (averaged, for length normalization), shape (B,).
        policy_rejected_logps: of the rejected ones.
        reference_chosen_logps: log ref of the chosen completions; zeros for a loss without a reference.
        reference_rejected_logps: of the rejected ones.
        beta: how much of a margin a preference is worth: small values move further from the reference.
        loss_type: which.
        label_smoothing: e, the probability with which a label is taken to be wrong: p = 1 - e.
        preference: the probability that chosen is the better one, shape (B,), before smoothing; 1 where left out.
        target_margin: taken off beta h (gamma of SimPO, Meng et al. 2024, equation 6).

    Raises:
        UserError: an unknown loss, a value out of range, or labels of 0 or 1 with ``exo``.
    """
    _check(beta, loss_type, label_smoothing, target_margin)
    chosen_B = policy_chosen_logps - reference_chosen_logps
    rejected_B = policy_rejected_logps - reference_rejected_logps
    margin_B = beta * (chosen_B - rejected_B) - target_margin
    given_B = torch.ones_like(margin_B) if preference is None else preference.to(margin_B)
    smooth_B = given_B * (1 - label_smoothing) + (1 - given_B) * label_smoothing
    match loss_type:
        case "sigmoid":
            losses_B = _mixed(-logsigmoid(margin_B), -logsigmoid(-margin_B), smooth_B)
        case "ipo":
            losses_B = _mixed((margin_B - 0.5) ** 2, (margin_B + 0.5) ** 2, smooth_B) / beta**2
        case "hinge":
            losses_B = _mixed((1 - margin_B).relu(), (1 + margin_B).relu(), smooth_B)
        case "robust":
            share = label_smoothing / (1 - 2 * label_smoothing)
            right_B, wrong_B = -logsigmoid(margin_B), -logsigmoid(-margin_B)
            losses_B = _mixed((1 + share) * right_B - share * wrong_B, (1 + share) * wrong_B - share * right_B, given_B)
        case "exo":
            if bool(((smooth_B <= 0) | (smooth_B >= 1)).any()):
                raise UserError('loss "exo" is infinite for a certain label; give label_smoothing, or soft labels')
            for_B, against_B = logsigmoid(margin_B), logsigmoid(-margin_B)
            losses_B = for_B.exp() * (for_B - smooth_B.log()) + against_B.exp() * (against_B - (1 - smooth_B).log())
        case "sppo":
            goal = 0.5 / beta
            right_B = (chosen_B - goal) ** 2 + (rejected_B + goal) ** 2
            wrong_B = (rejected_B - goal) ** 2 + (chosen_B + goal) ** 2
            losses_B = _mixed(right_B, wrong_B, smooth_B)
    return PreferenceLoss(losses_B, beta * chosen_B.detach(), beta * rejected_B.detach())


def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    desirable: Tensor,
    *,
    beta: float,
    reference_point: Tensor | float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, equation 8) from single judgments, one loss each, shape (B,).

    A good completion loses 1 - sigmoid(r - z), a bad one 1 - sigmoid(z - r), with r = beta log(pi/ref); the gradient fades where
    r is far from the reference point z on either side.

    Args:
        policy_logps: log pi of each completion, shape (B,).
        reference_logps: log ref of each.
        desirable: the probability that it is a good one: 1 and 0 for plain judgments, shape (B,).
        beta: how fast the value saturates in nats.
        reference_point: z, beta times an estimate of KL(pi || ref) that is not below 0; no gradient flows through it.
        desirable_weight: what good completions weigh.
        undesirable_weight: what bad ones weigh.
    """
    gain_B = beta * (policy_logps - reference_logps) - torch.as_tensor(reference_point).detach()
    good_B = desirable.to(gain_B)
    return desirable_weight * good_B * (-gain_B).sigmoid() + undesirable_weight * (1 - good_B) * gain_B.sigmoid()


def _mixed(right_B: Tensor, wrong_B: Tensor, chance_B: Tensor) -> Tensor:
    return chance_B * right_B + (1 - chance_B) * wrong_B


def _check(beta: float, loss_type: str, label_smoothing: float, target_margin: float) -> None:
    if loss_type not in get_args(PreferenceLossType):
        known = get_args(PreferenceLossType)
        raise UserError(f'no preference loss "{loss_type}"{did_you_mean(loss_type, known)}; known: {", ".join(known)}')
    if not (beta > 0 and math.isfinite(beta)):
        raise UserError(f"beta is {beta}, expected a number above 0")
    if not 0 <= label_smoothing < 0.5:
        raise UserError(f"label_smoothing is {label_smoothing}, expected a number from 0 to below 0.5")
    if target_margin and loss_type == "sppo":
        raise UserError('loss "sppo" has no margin; leave out target_margin')
