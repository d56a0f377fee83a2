"""Fits recover the coefficients that made the data, and their peaks are the ones that calculus gives."""

import numpy as np
import pytest

from bakeoff.errors import UserError
from bakeoff.reports.overoptimisation import fit_gold


def test_quadratic_form():
    d = np.linspace(0, 4, 9)
    fit = fit_gold(d, d * (1.2 - 0.3 * d), "quadratic")
    assert (fit.a, fit.b) == pytest.approx((1.2, 0.3))
    assert (fit.peak, fit.peak_gold) == pytest.approx((2.0, 1.2))  # a / 2b, a^2 / 4b
    assert fit.at(2.0) == pytest.approx(1.2)


def test_logarithmic_form():
    d = np.linspace(0, 9, 12)
    gain = np.where(d > 0, d * (1.0 - 0.4 * np.log(np.maximum(d, 1e-9))), 0.0)
    fit = fit_gold(d, gain, "logarithmic")
    assert (fit.a, fit.b) == pytest.approx((1.0, 0.4))
    assert fit.peak == pytest.approx(np.exp(1.5))  # a / b - 1 = 1.5
    assert fit.peak_gold == pytest.approx(0.4 * np.exp(1.5))
    np.testing.assert_allclose(fit.at(d), gain, atol=1e-12)


def test_a_gain_that_never_turns_has_no_peak():
    assert fit_gold([1.0, 2, 3], [1.0, 4, 9], "quadratic").peak == np.inf


def test_too_little_to_fit():
    with pytest.raises(UserError, match="fewer than three"):
        fit_gold([0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 1.0, 1.0], "logarithmic")
    with pytest.raises(UserError, match='use "quadratic" or "logarithmic"'):
        fit_gold([1.0, 2, 3], [1.0, 2, 3], "ppo")
