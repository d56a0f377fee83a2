"""Power by simulation and by closed forms, variance components recovered from data with two levels."""

import math

import numpy as np
import pytest
from scipy import stats

from bakeoff.errors import UserError
from bakeoff.reports.statistics.comparisons import Scores, critical_t, differences
from bakeoff.reports.statistics.power import (
    Components,
    claim_limit,
    detectable_difference,
    power,
    seeds_needed,
    variance_components,
)

RUNS = 20_000
WITHIN = 4 * math.sqrt(0.8 * 0.2 / RUNS)
"""Four binomial standard errors of a share of 80 %."""


def found(difference, variances, seeds, contestants, rng, runs=RUNS):
    """Share of simulated runs in which the difference counts, each variance being at least the mean of both."""
    a = rng.normal(difference, math.sqrt(variances[0]), (runs, seeds[0]))
    b = rng.normal(0, math.sqrt(variances[1]), (runs, seeds[1]))
    own = np.stack([a.var(1, ddof=1), b.var(1, ddof=1)])
    error = np.sqrt((np.maximum(own, own.mean(0)) / np.array(seeds)[:, None]).sum(0))
    return float((a.mean(1) - b.mean(1) > critical_t(contestants, min(seeds)) * error).mean())


@pytest.mark.parametrize("contestants", [2, 7])
@pytest.mark.parametrize(
    ("variances", "seeds"), [((1, 1), (3, 3)), ((1, 0.1), (5, 5)), ((1, 4), (4, 9)), ((1, 0), (3, 3))]
)
def test_detectable_difference_is_found_in_80_percent(variances, seeds, contestants):
    smallest = detectable_difference(variances, seeds, contestants)
    assert found(smallest, variances, seeds, contestants, np.random.default_rng(0)) == pytest.approx(0.8, abs=WITHIN)


@pytest.mark.parametrize("difference", [0.8, 1.5, 3.0])
def test_planned_seeds_find_the_difference(difference):
    """Training noise of variance 0.7, evaluation noise of 0.3: the fewest seeds that reach 80 %, and one less does not."""
    total = Components(0.7, 0.3, 64, 10, 1.0).total
    seeds = seeds_needed(difference, (total, total), contestants=4)
    rng = np.random.default_rng(1)
    assert found(difference, (total, total), (seeds, seeds), 4, rng) > 0.8 - WITHIN
    assert found(difference, (total, total), (seeds - 1, seeds - 1), 4, rng) < 0.8 + WITHIN


def test_the_limit_is_the_report_s():
    rng = np.random.default_rng(2)
    x, y = rng.normal(1, 1, 4), rng.normal(0, 2, 6)
    limit = claim_limit(x.var(ddof=1), y.var(ddof=1), (4, 6), 2)
    (found,) = differences([(0, 1)], [Scores(x, exact=True), Scores(y, exact=True)])
    assert found.high - found.value == pytest.approx(limit)


def test_against_a_known_mean_it_is_the_noncentral_t():
    """Where one side does not scatter it gets half of the other's variance, and the power is a closed form."""
    for seeds, difference in ((3, 2.0), (8, 0.9), (30, 0.5)):
        limit = critical_t(2, seeds) * math.sqrt(1.5)
        closed = stats.nct.sf(limit, seeds - 1, difference * math.sqrt(seeds))
        assert power(difference, (1, 0), (seeds, seeds)) == pytest.approx(closed, abs=2e-3)


def test_more_contestants_need_more():
    needed = [seeds_needed(1.0, (1, 1), contestants) for contestants in (2, 7, 16)]
    assert needed[0] > 17  # the textbook's, with Student's bar, which holds for normal scores of one deviation alone
    assert needed == sorted(needed)
    assert seeds_needed(1e-3, (1, 1)) is None
    assert seeds_needed(1.0, (0, 0)) == 2
    assert detectable_difference((0, 0), (3, 3)) == 0
    assert detectable_difference((1, 1), (1, 5)) == math.inf
    for wrong in (0, -1, math.nan):
        with pytest.raises(UserError, match="above 0"):
            seeds_needed(wrong, (1, 1))


def test_components_are_recovered():
    """Two levels: 20 contestants x 50 seeds, training deviation .2, completions of deviation 1.6, 64 per evaluation."""
    rng = np.random.default_rng(3)
    true = rng.normal(0, 0.2, (20, 50))
    completions = true[..., None] + rng.normal(0, 1.6, (20, 50, 64))
    scores = completions.mean(2)
    errors = (completions.var(2, ddof=1) / 64).mean(1)
    pooled = variance_components(list(scores), errors, 64)
    # The total's relative standard error is sqrt(2 / 980) = .045, hence .0036 of .08, and training's the same.
    assert pooled.training == pytest.approx(0.04, abs=4 * 0.0036)
    assert pooled.evaluation == pytest.approx(0.04, abs=4e-4)
    assert pooled.freedom == 20 * 49
    assert pooled.evaluation_share == pytest.approx(0.5, abs=0.08)
    low, high = pooled.interval()
    assert low < 0.08 < high
    # With four times the completions only the evaluation's part shrinks, to a quarter.
    assert pooled.at(256) == pytest.approx(pooled.training + pooled.evaluation / 4)
    again = true + rng.normal(0, 1.6 / 16, true.shape)
    assert pooled.at(256) == pytest.approx(again.var(axis=1, ddof=1).mean(), rel=4 * 0.09)


def test_exact_scores_have_no_evaluation_part():
    exact = variance_components([[0.1, 0.3], [0.5, 0.5, 0.8]], 0.0, 0)
    assert exact.evaluation == exact.evaluation_share == 0
    assert exact.training == pytest.approx((0.02 * 1 + 0.03 * 2) / 3)  # weighted by degrees of freedom
    assert exact.at(10) == exact.total


def test_few_seeds_that_agree_keep_the_evaluation_s_error():
    agree = variance_components([[1.0, 1.0], [0.5, 0.5]], 0.0625, 4)
    assert (agree.training, agree.total, agree.evaluation_share, agree.observed) == (0, 0.0625, 1, 0)
    assert agree.interval() == (0.0625, 0.0625)
    rounding = variance_components([[0.1 + 0.2, 0.3], [0.5, 0.5]], 0.0, 0)
    assert rounding.total == 0
    assert math.isnan(rounding.evaluation_share)


def test_interval_of_the_scatter():
    few = variance_components([[1.0, 2.0, 3.0]], 0.1, 64)
    assert few.interval() == pytest.approx((2 / stats.chi2.ppf(0.975, 2), 2 / stats.chi2.ppf(0.025, 2)))
    assert variance_components([[1.0, 2.0, 3.0]], 0.9, 64).interval()[0] == 0.9  # the evaluation's part is known


def test_unknown_evaluation_error():
    unknown = variance_components([[0.1, 0.3]], math.nan, 8)
    assert unknown.total == pytest.approx(0.02)
    assert math.isnan(unknown.evaluation_share)
    with pytest.raises(UserError, match="unknown"):
        unknown.at(16)
    with pytest.raises(UserError, match="no contestant has two seeds"):
        variance_components([[0.1], []], 0.0, 8)
