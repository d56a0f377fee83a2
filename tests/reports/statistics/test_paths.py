"""Scores along a path, on curves whose values are known."""

import numpy as np
import pytest
from scipy import stats

from bakeoff.reports.statistics.paths import chosen_on_other_seeds, mean_over_seeds, score_where_reached, score_within


def test_interpolation_is_exact_on_a_line():
    kl = np.array([0.0, 0.3, 1.1, 2.0])
    for level in (0.0, 0.1, 0.3, 0.77, 2.0):
        assert score_where_reached(kl, 3 - 2 * kl, level) == pytest.approx(3 - 2 * level)
        assert score_within(kl, 3 - 2 * kl, level) == pytest.approx(3 - 2 * level)


def test_a_kl_counts_where_it_is_first_reached():
    assert score_where_reached([0, 4, 2, 6], [0, 4, 10, 20], 3) == 3  # not 7 on the way back, nor 12.5
    assert np.isnan(score_where_reached([0, 4, 2], [0, 1, 2], 4.1))
    assert np.isnan(score_where_reached([1, 4], [0, 1], 0.5))  # it never was so close to the reference
    assert score_where_reached([3, 1], [0, 1], 2) == 0.5


def test_missing_values_are_stepped_over():
    assert score_where_reached([0, np.nan, 2], [0, 9, 4], 1) == 2
    assert score_within([0, 1, 2], [0, np.nan, 4], 1) == 2


def test_a_spend_gives_the_last_score_that_it_covers():
    spent, score = [0, 10, 10, 20], [0.0, 1.0, 3.0, 4.0]
    assert score_within(spent, score, 10) == 3  # it went on learning without spending
    assert score_within(spent, score, 5) == 0.5
    assert score_within(spent, score, 15) == 3.5
    assert score_within(spent, score, 99) == 4  # it ended before
    assert np.isnan(score_within([5, 10], [1.0, 2.0], 4))


def test_a_checkpoint_is_chosen_on_other_seeds():
    held = chosen_on_other_seeds([[0, 5, 1], [0, 1, 2], [0, 1, 3]])
    # Without the first the means are 0 1 2.5, without the second 0 3 2, without the third 0 3 1.5.
    assert held.chosen.tolist() == [2, 1, 1]
    assert held.scores.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="two seeds"):
        chosen_on_other_seeds([[0, 1]])


def test_the_choice_profits_from_no_luck():
    """Noise around one level: the best of a seed's own evaluations is above it, the choice of the others is not."""
    noise = np.random.default_rng(0).normal(size=(2000, 3, 8))
    held = np.array([chosen_on_other_seeds(one).scores.mean() for one in noise])
    assert abs(held.mean()) < 4 * held.std() / np.sqrt(len(held))
    assert noise.max(axis=2).mean() > 1


def test_the_interval_over_seeds_is_students():
    found = mean_over_seeds([1.0, 2.0, 6.0])
    reference = stats.t.interval(0.95, 2, loc=3, scale=stats.sem([1, 2, 6]))
    assert (found.value, found.low, found.high) == pytest.approx((3, *reference))
    assert np.isnan(mean_over_seeds([1.0]).low)
    assert np.isnan(mean_over_seeds([]).value)
