"""Fitting scores to preferences under Bradley and Terry's model (1952): P(chosen wins) = sigmoid(r_chosen - r_rejected)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.01, 0.001)
"""L2 penalties that :func:`fit_head` tries, from the strongest on until the loss on the left-out folds rises."""

_NEWTON_STEPS = 30
_TOLERANCE = 1e-8


def bradley_terry_loss(differences_B: Tensor, margins_B: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood of each preference, shape (B,).

    Args:
        differences_B: r(chosen) - r(rejected).
        margins_B: how far apart they should be at least (Touvron et al. 2023, equation 2); 0 where none are given.
        label_smoothing: share of labels taken to be the wrong way round, below 1/2.
    """
    z_B = differences_B if margins_B is None else differences_B - margins_B
    return -(1 - label_smoothing) * logsigmoid(z_B) - label_smoothing * logsigmoid(-z_B)


@dataclass(frozen=True)
class Head:
    """A linear score on frozen features."""

    weight_D: Tensor
    """In the features' own units, float64."""
    penalty: float
    """The L2 penalty that was chosen."""


def fit_head(
    features_ND: Tensor,
    folds_N: Sequence[int],
    *,
    margins_N: Tensor | None = None,
    label_smoothing: float = 0.0,
    penalties: Sequence[float] = PENALTIES,
) -> Head:
    """The linear score that fits preferences best, its L2 penalty chosen by cross-validated log-likelihood.

    Args:
        features_ND: features of the chosen answer minus those of the rejected one.
        folds_N: which fold of the cross-validation each pair is in.
        margins_N: see :func:`bradley_terry_loss`.
        label_smoothing: see there.
        penalties: to choose among; the loss is the mean over pairs + penalty / 2 x the squared weights, features being scaled
            to unit mean square.
    """
    features_ND = features_ND.double()
    scale_D = features_ND.square().mean(0).sqrt().clamp_min(1e-12)
    scaled_ND = features_ND / scale_D
    margins_N = torch.zeros(len(scaled_ND), dtype=torch.float64) if margins_N is None else margins_N.double()
    folds = torch.as_tensor(list(folds_N))
    penalty = float(penalties[0])
    least = float("inf")
    weights: dict[int, Tensor] = {}
    for tried in penalties if len(penalties) > 1 else ():
        loss = 0.0
        for fold in sorted(set(folds.tolist())):
            inside = folds == fold
            start_D = weights.get(fold)  # the stronger penalty's solution is a good start
            weights[fold] = newton(scaled_ND[~inside], margins_N[~inside], label_smoothing, tried, start_D=start_D)
            loss += float(bradley_terry_loss(scaled_ND[inside] @ weights[fold], margins_N[inside]).sum())
        if loss > least:
            break
        least, penalty = loss, float(tried)
    return Head(newton(scaled_ND, margins_N, label_smoothing, penalty) / scale_D, penalty)


def newton(
    features_ND: Tensor, margins_N: Tensor, label_smoothing: float, penalty: float, start_D: Tensor | None = None
) -> Tensor:
    """Weights (D,) that minimize mean Bradley-Terry loss + penalty / 2 |w|^2, by Newton's method.

    The loss is convex, so this is the only minimum.
    """
    count, width = features_ND.shape
    weight_D = torch.zeros(width, dtype=features_ND.dtype) if start_D is None else start_D.clone()
    ridge_DD = penalty * torch.eye(width, dtype=features_ND.dtype)

    def loss_of(weight_D: Tensor) -> float:
        losses_N = bradley_terry_loss(features_ND @ weight_D, margins_N, label_smoothing)
        return float(losses_N.mean() + penalty / 2 * weight_D.square().sum())

    loss = loss_of(weight_D)
    for _ in range(_NEWTON_STEPS):
        chance_N = torch.sigmoid(features_ND @ weight_D - margins_N)
        gradient_D = features_ND.T @ (chance_N - (1 - label_smoothing)) / count + penalty * weight_D
        curvature_N = chance_N * (1 - chance_N) / count
        hessian_DD = (features_ND * curvature_N[:, None]).T @ features_ND + ridge_DD
        step_D = torch.cholesky_solve(gradient_D[:, None], torch.linalg.cholesky(hessian_DD))[:, 0]
        decrease, length = float(gradient_D @ step_D), 1.0
        while loss_of(weight_D - length * step_D) > loss - 1e-4 * length * decrease and length > 1e-4:
            length /= 2
        weight_D = weight_D - length * step_D
        loss = loss_of(weight_D)
        if decrease < _TOLERANCE:
            break
    return weight_D
