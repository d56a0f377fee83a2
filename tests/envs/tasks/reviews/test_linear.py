"""The two fits agree with closed forms and with each other's definitions."""

import numpy as np
import pytest
from scipy import sparse

from bakeoff.envs.tasks.reviews import linear


def test_ridge_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    weights, intercept = linear.ridge(sparse.csr_matrix(x), y, 2.0)
    centered = x - x.mean(0)
    expected = np.linalg.solve(centered.T @ centered + 2.0 * np.eye(4), centered.T @ (y - y.mean()))
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-5)
    assert intercept == pytest.approx(y.mean() - x.mean(0) @ expected, abs=1e-4)


def test_bradley_terry_finds_the_log_odds() -> None:
    # Feature 0 beats feature 1 in three comparisons of four: the log-odds are ln 3, and only w0 - w1 matters.
    differences = sparse.csr_matrix([[1.0, -1.0]] * 3 + [[-1.0, 1.0]])
    weights = linear.comparison_weights(differences, 1e-9)
    assert weights[0] - weights[1] == pytest.approx(np.log(3), abs=1e-3)
    # The same as weights: one comparison drawn three times.
    counted = linear.comparison_weights(differences[[0, 3]], 1e-9, np.array([3.0, 1.0]))
    np.testing.assert_allclose(counted, weights, atol=1e-3)


def test_the_penalty_holds_weights_back() -> None:
    differences = sparse.csr_matrix([[1.0, -1.0]] * 5)  # never beaten: without a penalty there is no maximum
    loose, tight = (linear.comparison_weights(differences, penalty) for penalty in (0.1, 10.0))
    assert loose[0] > tight[0] > 0
    # At the optimum the gradient is zero: 5 sigmoid(-2w) = penalty w.
    assert 5 / (1 + np.exp(2 * tight[0])) == pytest.approx(10 * tight[0], abs=1e-4)


def test_pair_accuracy_by_hand() -> None:
    truth = np.array([0.0, 2.0, 2.5, 4.0])  # pairs more than 1 apart: 02 0-2.5 04 24 2.5-4
    assert linear.pair_accuracy(np.array([1.0, 2.0, 3.0, 4.0]), truth) == 1.0
    assert linear.pair_accuracy(np.array([2.0, 1.0, 3.0, 3.0]), truth) == pytest.approx((0 + 1 + 1 + 1 + 0.5) / 5)


def test_the_interval_holds_the_accuracy() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200) * 2
    scores = truth + rng.normal(size=200) * 2
    low, high = linear.pair_accuracy_interval(scores, truth, rng)
    assert low < linear.pair_accuracy(scores, truth) < high
    assert 0.02 < high - low < 0.15
