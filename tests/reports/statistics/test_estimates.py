"""Estimates over seeds against numbers worked out by hand, scipy, and a published file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bakeoff.errors import UserError
from bakeoff.reports.statistics.coverage import COVERAGE, coverage_at, simulate_coverage
from bakeoff.reports.statistics.estimates import (
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap_interval,
    win_rate,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_interquartile_mean_drops_a_quarter_from_each_end():
    assert interquartile_mean([100.0, 1, 2, 3, 4, 5, 6, -100]) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([1.0, 2, 9]) == 4  # too few to drop any
    np.testing.assert_allclose(interquartile_mean([[0.0, 1, 3, 50], [0, 5, 7, 50]], axis=-1), [2, 6])


def test_the_interval_of_two_seeds_is_known_exactly():
    # Resamples of {0, 1} have means 0, .5, .5, 1: the 2.5 % and 97.5 % quantiles are the ends.
    assert stratified_bootstrap_interval([0.0, 1.0], rng=rng()) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_one_task_equals_scipy(method):
    scores = rng(1).normal(size=7)
    ours = stratified_bootstrap_interval(scores, rng=rng(2), method=method.lower(), resamples=500)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=500, method=method, rng=rng(2)).confidence_interval
    assert ours.value == pytest.approx(scores.mean())
    assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_resampling_stays_within_tasks():
    # Tasks differ by 100 but their seeds agree: were tasks resampled as seeds, the interval would be tens wide.
    easy, hard = [100.0, 100.0, 100.1], [0.0, 0.0, 0.1]
    estimate = stratified_bootstrap_interval([easy, hard], rng=rng())
    assert estimate.value == pytest.approx(50 + 0.1 / 3)
    assert 50 <= estimate.low <= estimate.high <= 50.1


def test_the_stratified_spread_is_the_one_that_theory_gives():
    # Var of the pooled mean = sum over tasks of n_k * var_k(population) / N^2, taken here for 30 + 10 seeds.
    a, b = rng(3).normal(size=30), 5 * rng(4).normal(size=10)
    sd = np.sqrt(30 * a.var() + 10 * b.var()) / 40
    estimate = stratified_bootstrap_interval([a, b], rng=rng(5), resamples=20_000)
    assert (estimate.high - estimate.low) / (2 * stats.norm.ppf(0.975)) == pytest.approx(sd, rel=0.03)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_degenerate_seeds(method):
    constant = stratified_bootstrap_interval([[0.5, 0.5, 0.5]], rng=rng(), method=method)
    assert constant == (0.5, 0.5, 0.5)
    single = stratified_bootstrap_interval([[1.0], [2.0, 3.0]], rng=rng(), method=method)
    assert single.value == 2
    assert np.isnan([single.low, single.high]).all()


def test_the_generator_alone_decides():
    scores = rng(6).normal(size=5)
    first, second, other = (stratified_bootstrap_interval(scores, interquartile_mean, rng=rng(s)) for s in (7, 7, 8))
    assert first == second != other


@pytest.mark.parametrize("bad", [[], [[]], [[1.0], []], [np.nan, 1.0], [[1.0, np.inf]]])
def test_scores_that_are_none_are_refused(bad):
    with pytest.raises(UserError, match="scores:"):
        stratified_bootstrap_interval(bad, rng=rng())


def test_an_unknown_method_is_refused():
    with pytest.raises(UserError, match='use "percentile" or "bca"'):
        stratified_bootstrap_interval([1.0, 2.0], rng=rng(), method="basic")


def test_probability_of_improvement_counts_ties_as_half():
    # Pairs (x > y): 1 beats none and ties with 1; 3 beats both; 2 beats 1 and ties with 2 -> (0.5 + 2 + 1.5) / 6.
    estimate = probability_of_improvement([1.0, 3, 2], [1.0, 2], rng=rng())
    assert estimate.value == pytest.approx(4 / 6)
    u = stats.mannwhitneyu([1.0, 3, 2], [1.0, 2]).statistic
    assert estimate.value == pytest.approx(u / 6)
    assert 0 <= estimate.low < estimate.value < estimate.high <= 1


def test_probability_of_improvement_averages_over_tasks():
    estimate = probability_of_improvement([[2.0, 3], [0.0, 0]], [[0.0, 1], [1.0, 1]], rng=rng())
    assert estimate == (0.5, 0.5, 0.5)  # all wins on the one, all losses on the other, whatever is resampled
    swapped = probability_of_improvement([1.0, 2, 5], [1.5, 4], rng=rng()).value
    assert swapped == pytest.approx(1 - probability_of_improvement([1.5, 4], [1.0, 2, 5], rng=rng()).value)
    with pytest.raises(UserError, match="2 tasks against 1"):
        probability_of_improvement([[1.0], [2.0]], [[1.0]], rng=rng())


def test_performance_profile_weighs_tasks_alike():
    # Above .5: one of two on the first task, all three on the second -> (1/2 + 1) / 2; at a score is not above it.
    profile = performance_profile([[0.4, 0.6], [0.7, 0.8, 0.9]], [0.0, 0.5, 0.9])
    np.testing.assert_allclose(profile, [1, 0.75, 0])


def test_optimality_gap_does_not_reward_excess():
    assert optimality_gap([0.5, 1.5]) == 0.25  # (0.5 + 0) / 2
    assert optimality_gap([1.0, 3.0], target=2) == 0.5


def test_win_rate_by_hand():
    result = win_rate([1, 0, 0.5, 1, np.nan])
    assert result.rate == 0.625
    assert result.n == 4
    assert result.standard_error == pytest.approx(np.sqrt((2 * 0.375**2 + 0.625**2 + 0.125**2) / 3 / 4))
    with pytest.raises(UserError, match=r"1 \(win\), 0\.5"):
        win_rate([2.0])
    with pytest.raises(UserError, match="no outcomes"):
        win_rate([np.nan])


def test_win_rate_equals_the_published_one():
    folder = os.environ.get("BAKEOFF_TEST_DATA")
    file = Path(folder or "", "alpaca-eval", "LMCocktail-10.7B-v1.preferences.jsonl")
    if folder is None or not file.is_file():
        pytest.skip("BAKEOFF_TEST_DATA names no folder with alpaca-eval in it")
    outcome = {1.0: 0.0, 2.0: 1.0, 1.5: 0.5, 0.0: 0.5}  # 1: baseline won, 2: model won, 1.5 and 0: tie, null: dropped
    preferences = [json.loads(line)["preference"] for line in file.read_text().splitlines()]
    result = win_rate([np.nan if value is None else outcome[value] for value in preferences])
    assert result.n == 803
    assert 100 * result.rate == pytest.approx(92.21668742216687, abs=1e-9)
    assert 100 * result.standard_error == pytest.approx(0.9439649347776011, abs=1e-9)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_coverage_that_reports_state_is_the_measured_one(seeds):
    measured = simulate_coverage(seeds, rng=rng(seeds), runs=4000)
    assert measured == pytest.approx(COVERAGE[seeds], abs=0.02)  # standard error of the simulation: 0.007


def test_the_coverage_at_twenty_seeds_is_93_percent():
    measured = simulate_coverage(20, rng=rng(20), runs=40_000)
    assert measured == pytest.approx(COVERAGE[20], abs=0.004)  # standard error of the simulation: 0.0013
    assert f"{100 * coverage_at(20):.0f} %" == "93 %"


def test_coverage_between_measured_numbers_of_seeds():
    assert coverage_at(1) == 0
    assert coverage_at(2) == 0.5
    assert coverage_at(3) == COVERAGE[3] < coverage_at(4) < coverage_at(5) == COVERAGE[5]
    assert coverage_at(1000) == COVERAGE[20]
