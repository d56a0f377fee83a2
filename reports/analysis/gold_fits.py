"""Gold reward over distance from the reference: fits, peaks and what lies past them.

After Gao, Schulman and Hilton 2023 (arXiv 2210.10760), d = sqrt(KL). Best of n: R(d) = d (a - b d); reinforcement
learning: R(d) = d (a - b ln d), where R is the gold reward above the reference's. Both are linear in a and b, so ordinary
least squares finds them. Coefficients belong to one set-up and say nothing about another; KL is not a fair measure of
pressure across methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bakeoff.errors import UserError
from bakeoff.reports.data.text import number
from bakeoff.reports.statistics.estimates import Estimate

Array = NDArray[np.float64]
Form = Literal["quadratic", "logarithmic"]

FORMULAS = {"quadratic": "d (a − b d)", "logarithmic": "d (a − b ln d)"}
ENOUGH = 4
"""Evaluations away from the reference, in each seed, below which nothing is fitted."""
GOOD_ENOUGH = 0.5
"""The share of variance (R²) below which a fit is said not to describe the data."""


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


class Curve(NamedTuple):
    """One seed's way from the reference: along training, or over n for best of n."""

    distance: Array
    """sqrt(KL), shape (K,)."""
    gain: Array
    """Gold less the reference's, shape (K,)."""


class SeedFit(NamedTuple):
    """One form fitted to all seeds together, with 95 % intervals over seeds."""

    fit: GoldFit
    a: Estimate
    """Student's interval, by the fits of the single seeds."""
    b: Estimate
    """Student's interval, by the fits of the single seeds."""
    peak: Estimate
    """By a bootstrap over seeds. Ends may be infinite: resamples in which gold does not turn down."""
    r_squared: float
    """Share of the variance of gold about its mean that the fit explains; below zero it is worse than the mean."""
    seeds: int
    reach: float
    """The largest distance that was measured."""

    def statement(self, fall: Estimate) -> str:
        """What the fit and the measured fall support, in words.

        A form that bends down follows any plateau, so a peak is claimed only where gold, as it was measured, fell past its best.

        Args:
            fall: :attr:`Turn.fall`, measured on the same curves.
        """
        if self.r_squared < GOOD_ENOUGH:
            return f"the form does not describe these data (R² {number(self.r_squared)})"
        if not self.fit.b > 0:
            return "no turn: gold does not bend down"
        if self.fit.peak > self.reach:
            return "no turn within what was measured; the fit's peak is an extrapolation"
        if not np.isfinite(fall.low):
            return "one seed: noise cannot be ruled out as the cause of a fall"
        if not fall.low > 0:
            return "no peak: gold does not fall past its best by more than seed noise"
        if not self.fit.peak > 0:
            return "gold falls from the reference on"
        sure = "" if self.b.low > 0 else "; with other seeds the fit might not turn"
        return f"gold peaks at √KL {number(self.fit.peak)}{_interval(self.peak)}{sure}"


class Turn(NamedTuple):
    """The peak of gold as it was measured, without any form, and what lies past it."""

    distance: float
    """Mean sqrt(KL) of the evaluation with the highest mean gold."""
    gain: float
    """Mean gold above the reference's there."""
    end_distance: float
    end_gain: float
    fall: Estimate
    """Gold at the peak less gold at the end. Each seed's peak is where the *other* seeds' mean is highest, so that
    choosing the best of several noisy values does not make a fall; with one seed it is the plain difference."""


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
    a, b = (float(value) for value in np.linalg.lstsq(_columns(d[used], form), gold[used], rcond=None)[0])
    peak = float(_peaks(np.array([[a, b]]), form)[0])
    if np.isinf(peak):
        return GoldFit(form, a, b, peak, np.inf)
    return GoldFit(form, a, b, peak, b * peak**2 if form == "quadratic" else b * peak)


def fit_over_seeds(
    curves: Sequence[Curve], form: Form, rng: np.random.Generator, resamples: int = 1000
) -> SeedFit | None:
    """Fit all seeds' points together, with 95 % intervals: Student's for a and b, percentiles of resampled seeds for the peak.

    ``None`` where a seed has fewer than :data:`ENOUGH` evaluations away from the reference: two coefficients would follow
    any data. Intervals are NaN for one seed. The peak's is too narrow for a few: it can only recombine the seeds there are.
    """
    curves = [_finite(curve) for curve in curves]
    if not curves or min(int((curve.distance > 0).sum()) for curve in curves) < ENOUGH:
        return None
    distance, gain = (np.concatenate(parts) for parts in zip(*curves, strict=True))
    fit = fit_gold(distance, gain, form)
    away = distance > 0
    spread = float(np.sum((gain[away] - gain[away].mean()) ** 2))
    error = float(np.sum((gain[away] - fit.at(distance[away])) ** 2))
    peaks = _refitted_peaks(curves, form, rng, resamples) if len(curves) > 1 else np.empty(0)
    single = [fit_gold(*curve, form) for curve in curves]
    a, b = (_student(value, [getattr(one, name) for one in single]) for name, value in (("a", fit.a), ("b", fit.b)))
    peak = Estimate(fit.peak, *_ends(peaks))
    r_squared = 1 - error / spread if spread > 0 else np.nan
    return SeedFit(fit, a, b, peak, r_squared, len(curves), float(distance.max()))


def measured_turn(curves: Sequence[Curve]) -> Turn | None:
    """Where mean gold was highest and how far it fell from there; ``None`` without two evaluations in every seed.

    The interval of the fall is Student's, at 95 %: with few seeds a bootstrap would find a fall in noise too often.

    Curves are aligned by the number of the evaluation; a seed that stopped early ends with its own last one.
    """
    curves = [_finite(curve) for curve in curves]
    if not curves or min(len(curve.gain) for curve in curves) < 2:
        return None
    distance_SK, gain_SK = (of_equal_length(rows) for rows in zip(*curves, strict=True))
    peak = int(gain_SK.mean(0).argmax())
    falls = []
    for seed in range(len(curves)):
        others = np.delete(gain_SK, seed, axis=0) if len(curves) > 1 else gain_SK
        falls.append(float(gain_SK[seed, int(others.mean(0).argmax())] - gain_SK[seed, -1]))
    return Turn(
        float(distance_SK[:, peak].mean()),
        float(gain_SK[:, peak].mean()),
        float(distance_SK[:, -1].mean()),
        float(gain_SK[:, -1].mean()),
        _student(float(np.mean(falls)), falls),
    )


def of_equal_length(rows: Sequence[Array]) -> Array:
    """Curves of different lengths, shape (K_s, ...) each, as one array (S, K, ...): a shorter one stays at its last value."""
    length = max(map(len, rows))
    return np.stack([np.concatenate([row, np.repeat(row[-1:], length - len(row), axis=0)]) for row in rows])


def _student(value: float, per_seed: Sequence[float]) -> Estimate:
    """A value with Student's 95 % interval by its spread over seeds; NaN ends for one seed."""
    if len(per_seed) < 2:
        return Estimate(value, np.nan, np.nan)
    half = float(stats.t.ppf(0.975, len(per_seed) - 1) * np.std(per_seed, ddof=1) / np.sqrt(len(per_seed)))
    return Estimate(value, value - half, value + half)


def _refitted_peaks(curves: Sequence[Curve], form: Form, rng: np.random.Generator, resamples: int) -> Array:
    """The peak with seeds drawn again, shape (resamples,); least squares needs no more of a seed than its
    normal equations, and those of several add up."""
    count = len(curves)
    times_RS = (rng.integers(0, count, (resamples, count, 1)) == np.arange(count)).sum(1).astype(np.float64)
    matrices, products = [], []
    for distance, gain in curves:
        columns = _columns(distance[distance > 0], form)
        matrices.append(columns.T @ columns)
        products.append(columns.T @ gain[distance > 0])
    left, right = np.tensordot(times_RS, matrices, 1), np.tensordot(times_RS, products, 1)
    return _peaks((np.linalg.pinv(left, rcond=1e-12, hermitian=True) @ right[:, :, None])[:, :, 0], form)


def _peaks(coefficients_K2: Array, form: Form) -> Array:
    """The d at which gold is highest, for each a and b, shape (K,); infinite where b <= 0, and never below 0."""
    a, b = coefficients_K2.T
    ratio = np.divide(a, b, out=np.full_like(a, np.inf), where=b > 0)
    if form == "quadratic":
        return np.asarray(np.maximum(ratio, 0) / 2)
    return np.where(b > 0, np.exp(np.minimum(ratio - 1, 700)), np.inf)


def _columns(d: Array, form: Form) -> Array:
    return np.stack([d, -_second(d, form)], axis=1)


def _second(d: Array, form: Form) -> Array:
    return d**2 if form == "quadratic" else d * np.log(np.where(d > 0, d, 1.0))


def _finite(curve: Curve) -> Curve:
    distance, gain = (np.asarray(part, dtype=np.float64) for part in curve)
    kept = np.isfinite(distance) & np.isfinite(gain)
    return Curve(distance[kept], gain[kept])


def _ends(values: Array) -> tuple[float, float]:
    """2.5 and 97.5 % points; infinite values are larger than all others, as they should be."""
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _interval(estimate: Estimate) -> str:
    if not np.isfinite(estimate.low):
        return ""
    high = number(estimate.high) if np.isfinite(estimate.high) else "∞"
    return f" ({number(estimate.low)} to {high})"
