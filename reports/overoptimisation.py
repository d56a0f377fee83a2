"""Fits of gold reward over distance, after Gao, Schulman and Hilton 2023 (arXiv 2210.10760), d = sqrt(KL).

Best of n: R(d) = d (a - b d); reinforcement learning: R(d) = d (a - b ln d), where R is the gold reward above the
reference's. Both are linear in a and b, so ordinary least squares finds them. Coefficients belong to one set-up and say
nothing about another; KL is not a fair measure of pressure across methods.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bakeoff.errors import UserError

Array = NDArray[np.float64]
Form = Literal["quadratic", "logarithmic"]


class GoldFit(NamedTuple):
    """Gold reward above the reference's as a function of d."""

    form: Form
    a: float
    b: float
    peak: float
    """The d at which gold is highest; infinite where the fit does not turn down (b <= 0)."""
    peak_gold: float
    """Gold reward above the reference's there."""

    def at(self, distance: ArrayLike) -> Array:
        """The fitted curve."""
        d = np.asarray(distance, dtype=np.float64)
        return np.asarray(self.a * d - self.b * _second(d, self.form))


def fit_gold(distance: ArrayLike, gain: ArrayLike, form: Form) -> GoldFit:
    """Least-squares fit of one of the two forms.

    Args:
        distance: square root of the KL to the reference, shape (K,).
        gain: gold reward less the reference's, shape (K,).
        form: ``quadratic`` (Gao et al. for best of n) or ``logarithmic`` (for RL).

    Raises:
        UserError: an unknown form, or fewer than three points at a distance above zero.
    """
    if form not in ("quadratic", "logarithmic"):
        raise UserError(f'gold fit "{form}"; use "quadratic" or "logarithmic"')
    d, gold = np.asarray(distance, dtype=np.float64).reshape(-1), np.asarray(gain, dtype=np.float64).reshape(-1)
    used = np.isfinite(d) & np.isfinite(gold) & (d > 0)
    if used.sum() < 3:
        raise UserError("gold fit: fewer than three evaluations away from the reference; evaluate more often")
    columns = np.stack([d[used], -_second(d[used], form)], axis=1)
    a, b = (float(value) for value in np.linalg.lstsq(columns, gold[used], rcond=None)[0])
    if b <= 0:
        return GoldFit(form, a, b, np.inf, np.inf)
    if form == "quadratic":
        return GoldFit(form, a, b, a / (2 * b), a**2 / (4 * b))
    peak = float(np.exp(a / b - 1))
    return GoldFit(form, a, b, peak, b * peak)


def _second(d: Array, form: Form) -> Array:
    return d**2 if form == "quadratic" else d * np.log(np.where(d > 0, d, 1.0))
