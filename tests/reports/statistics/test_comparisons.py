"""Differences, corrections, ratings and best-of-n against hand-derived numbers and brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats

from bakeoff.errors import UserError
from bakeoff.reports.statistics.comparisons import (
    expected_maximum,
    pareto_set,
    ratings_from_wins,
    welch_difference,
)


def test_welch_equals_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 5))
    y = 3 * y[:4] + 1
    ours = welch_difference(x, y)
    theirs = stats.ttest_ind(x, y, equal_var=False)
    interval = theirs.confidence_interval()
    assert ours.value == pytest.approx(x.mean() - y.mean())
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


def test_contestants_without_seed_noise_differ_exactly():
    assert welch_difference([0.9, 0.9], [0.4, 0.4, 0.4], exact=True) == pytest.approx((0.5, 0.5, 0.5, 0.0))
    assert np.isnan(welch_difference([0.9, 0.9], [0.4, 0.4, 0.4])[1:]).all()  # sampled, so they only happen to agree
    assert welch_difference([0.1 + 0.2, 0.3], [0.3, 0.3], exact=True).p == 1  # rounding is no difference
    assert np.isnan(welch_difference([1.0], [0.0, 0.1]).p)
    with pytest.raises(UserError, match="without seeds"):
        welch_difference([], [1.0])


def test_two_players_rate_by_the_log_odds():
    ratings = ratings_from_wins([[0, 3], [1, 0]])
    assert ratings[0] - ratings[1] == pytest.approx(np.log(3))
    assert ratings.sum() == pytest.approx(0)


def test_ratings_recover_the_strengths_that_made_the_games():
    truth = np.array([1.0, 0.2, -0.4, -0.8])
    wins = 1000 / (1 + np.exp(truth[None, :] - truth[:, None]))
    np.testing.assert_allclose(ratings_from_wins(wins), truth, atol=1e-8)


def test_the_unbeaten_need_a_prior():
    with pytest.raises(UserError, match="set prior=1"):
        ratings_from_wins([[0, 5], [0, 0]])
    # One imaginary tie: 5.5 wins against 0.5.
    ratings = ratings_from_wins([[0, 5], [0, 0]], prior=1)
    assert ratings[0] - ratings[1] == pytest.approx(np.log(11))
    with pytest.raises(UserError, match="square"):
        ratings_from_wins([[1, 2, 3]])


def test_expected_maximum_is_the_mean_over_all_subsets():
    scores = [0.3, -1.0, 2.5, 0.3, 7.0]
    for n in range(1, 6):
        brute = np.mean([max(chosen) for chosen in itertools.combinations(scores, n)])
        assert expected_maximum(scores, [n])[0] == pytest.approx(brute)
    with pytest.raises(UserError, match="best of 6 from 5"):
        expected_maximum(scores, [6])


def test_expected_maximum_of_normal_draws():
    scores = np.random.default_rng(0).normal(size=100_000)
    np.testing.assert_allclose(expected_maximum(scores, [2, 4, 8, 16]), [0.5642, 1.0294, 1.4236, 1.7660], atol=0.02)


def test_pareto_set_keeps_ties_and_drops_the_dominated():
    cost, gain = [0.0, 1, 1, 2, 2], [0.0, 1, 0.5, 1, 3]
    assert pareto_set(cost, gain).tolist() == [True, True, False, False, True]
    assert pareto_set([1.0, 1.0], [2.0, 2.0]).tolist() == [True, True]
