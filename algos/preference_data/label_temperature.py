"""How sure labels are: tau of the Bradley-Terry model, given or measured on the first pairs, and the beta that belongs to it.

A label says that the better one of two rewards is better with probability sigmoid(|difference| / tau). One tau fits no two rewards:
with 1, rewards in the hundreds give certain labels and rewards between -1 and 1 little more than coin tosses. So it is measured,
as the tau at which a stated share of labels is expected to be right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from bakeoff.algos.losses.rounding import tied
from bakeoff.algos.preference_data.labels import Labels

RIGHT_SHARE = 0.88
"""Share of labels that is expected to be right, among pairs whose rewards differ.

At least .80 are to be right on all pairs, and tau is measured on few: on 32 pairs (a batch of 64) the share comes out with a
standard deviation of .026, whether rewards are normal, uniform, exponential, log-normal or Student's (2 degrees of freedom); .88
is three of them above .80. The information of one label about its difference d of rewards, (d/tau)^2 P (1 - P) with
P = sigmoid(d/tau), is largest at a share between .81 (those distributions) and .92 (all differences equal); at .88 it is at least
80 % of the largest in each."""

SOFT_SHARE = 0.75
"""The mean probability of the better one that soft labels are to have, among pairs whose rewards differ.

Soft labels are never wrong; tau only decides how flat their loss is where differences are large, by P (1 - P): a choice halfway
between a coin and certainty."""

UNMEASURED = 1.0
"""Tau while no two rewards differed, and for pairs that are given: beta is kl_coef then."""

DETERMINISTIC_BETA = 0.1
"""Beta for labels that always take the greater reward, as in Rafailov et al. (2023). There is no tau to derive it from, and no
finite optimum: more training moves the policy further, at any beta."""

TemperatureSetting = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"]
"""A tau, or `auto` to measure it."""


def measure_temperature(first_N: Tensor, second_N: Tensor, share: float = RIGHT_SHARE) -> float | None:
    """The tau at which ``share`` of labels is expected to be right: mean sigmoid(|difference| / tau) over rewards that differ.

    That mean falls in tau. At the smallest difference over log(share / (1 - share)) every term is at least ``share``, and at the
    largest none is more, so the solution is between the two; it is found by bisection. Rewards times c give c times the tau.

    Args:
        first_N: rewards of one side.
        second_N: of the other.
        share: between one half and 1.

    Returns:
        Tau in units of the reward; None where all rewards are tied.
    """
    first_N, second_N = first_N.double().cpu(), second_N.double().cpu()
    difference_M = (first_N - second_N).abs()[~tied(first_N, second_N)]
    if not len(difference_M):
        return None
    logit = math.log(share / (1 - share))
    low, high = float(difference_M.min()) / logit, float(difference_M.max()) / logit
    for _ in range(60):  # halves the logarithm's interval down to float64's precision
        middle = math.sqrt(low) * math.sqrt(high)
        if float((difference_M / middle).sigmoid().mean()) > share:
            low = middle
        else:
            high = middle
    return math.sqrt(low) * math.sqrt(high)


class LabelTemperature:
    """Tau: as set, or measured on the first rewards that differ and kept from there on.

    Until rewards differ it is :data:`UNMEASURED`; tied rewards are labeled one half at any tau, so what was labeled before agrees
    with what is labeled after.
    """

    def __init__(self, setting: TemperatureSetting, labels: Labels) -> None:
        """Args:
        setting: a tau, or `auto` to measure it.
        labels: what it is for: drawn ones are to be right often enough, soft ones not too sure.
        """
        self._share = SOFT_SHARE if labels == "soft" else RIGHT_SHARE
        self.value = UNMEASURED if setting == "auto" else float(setting)
        """Tau, in units of the reward."""
        self.known = setting != "auto"
        """It is set or measured."""

    def update(self, first_N: Tensor, second_N: Tensor) -> float:
        """Measure it on these rewards if it is not known yet; returns the tau to label them with."""
        found = None if self.known else measure_temperature(first_N, second_N, self._share)
        if found is not None:
            self.value, self.known = found, True
        return self.value

    def metrics(self, labels: Labels) -> dict[str, float]:
        """`label_temperature`, where labels have one."""
        return {} if labels == "deterministic" else {"label_temperature": self.value}

    def state_dict(self) -> dict[str, Any]:
        """Tau, and whether it is known."""
        return {"value": self.value, "known": self.known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.value, self.known = float(state["value"]), bool(state["known"])


def resolve_beta(beta: float | None, labels: Labels, kl_coef: float, temperature: float) -> float:
    """The loss's beta: as set, or for labels of the Bradley-Terry model the one at whose optimum is the objective's.

    Args:
        beta: the setting.
        labels: how the reward labels.
        kl_coef: of the objective.
        temperature: tau.
    """
    if beta is not None:
        return beta
    return DETERMINISTIC_BETA if labels == "deterministic" else kl_coef / temperature


def check_temperature(labels: Labels, setting: TemperatureSetting) -> None:
    """Raise ValueError where labels that have no tau are given one."""
    if labels == "deterministic" and setting != "auto":
        raise ValueError('labels: deterministic has no temperature; leave out "label_temperature" and set "beta"')
