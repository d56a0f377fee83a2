"""Differences that hold for all pairs: by hand, and by simulation of what a report would claim."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bakeoff.benchmarks.studies.comparison_errors import table
from bakeoff.benchmarks.studies.page_tables import with_table
from bakeoff.errors import UserError
from bakeoff.reports.statistics.comparison_errors import (
    SHAPES,
    SPREADS,
    Case,
    _draw,
    cases,
    false_claims,
    true_leads,
)
from bakeoff.reports.statistics.comparisons import ALPHA, Scores, critical_t, differences, seed_variances

ROOT = Path(__file__).parents[3]


def sampled(values, errors, completions=4.0, **more):
    return Scores(np.array(values), np.array(errors), completions, **more)


def difference(*contestants):
    (found,) = differences([(0, 1)], contestants)
    return found


def test_two_seeds_that_agree_are_no_certainty():
    # Four completions each: 8 of 8 against 4 of 8. Fisher's exact test of the eight draws says .077.
    half = np.sqrt(0.25 * 4 / 3 / 4)
    found = difference(sampled([1.0, 1.0], [0.0, 0.0]), sampled([0.5, 0.5], [half, half]))
    assert found.value == 0.5
    assert stats.fisher_exact([[8, 0], [4, 4]]).pvalue == pytest.approx(0.077, abs=5e-4)
    assert found.p > 0.077
    assert found.low < 0 < found.high


def test_all_against_nothing_is_no_more_certain_than_its_draws():
    # No scatter within any evaluation. Under equal means the 24 pooled draws have variance 1/4, that of two means over 12
    # each is 1/4 x 2/12 = 1/24.
    found = difference(sampled([1.0] * 3, [0.0] * 3), sampled([0.0] * 3, [0.0] * 3))
    assert (found.high - found.low) / 2 == pytest.approx(critical_t(2, 3) / np.sqrt(24))
    assert found.p > 0


def test_exact_figures_differ_exactly():
    best, other = Scores(np.array([0.9, 0.9]), exact=True), Scores(np.array([0.4, 0.4, 0.4]), exact=True)
    assert difference(best, other) == pytest.approx((0.5, 0.5, 0.5, 0.0))
    third = Scores(np.array([0.1 + 0.2, 0.3]), exact=True)
    assert difference(third, Scores(np.array([0.3, 0.3]), exact=True)) == (0, 0, 0, 1)  # rounding is no difference


def test_nothing_is_known_without_scatter_or_error():
    unknown = [np.nan, np.nan]
    assert np.isnan(difference(sampled([1.0, 1.0], unknown, 0), sampled([0.5, 0.5], unknown, 0)).p)
    assert difference(sampled([0.5, 0.5], unknown, 0), sampled([0.5, 0.5], unknown, 0)).p == 1
    assert np.isnan(difference(sampled([1.0], [0.1]), sampled([0.5, 0.5], [0.1, 0.1])).p)


def test_a_variance_has_two_floors():
    # Their own: 4, and of three seeds that happen to agree the evaluations' .3^2; the mean of 4 and .09 is above the latter.
    loud, quiet = sampled([0.0, 2.0, 4.0], [0.1] * 3), sampled([1.0] * 3, [0.3] * 3)
    np.testing.assert_allclose(seed_variances([loud, quiet]), [4, (4 + 0.09) / 2])
    np.testing.assert_allclose(seed_variances([quiet, quiet]), [0.09, 0.09])
    assert np.isnan(seed_variances([quiet, sampled([1.0], [0.3])])[1])


def test_interval_and_p_by_hand():
    a, b = Scores(np.array([3.0, 4.0, 5.0]), exact=True), Scores(np.array([0.0, 1.0, 2.0]), exact=True)
    found, bar = difference(a, b), critical_t(2, 3)
    error = np.sqrt(1 / 3 + 1 / 3)
    assert (found.low, found.high) == pytest.approx((3 - bar * error, 3 + bar * error))
    assert found.p == pytest.approx(ALPHA * stats.t.sf(3 / error, 2) / stats.t.sf(bar, 2))


def test_p_is_below_alpha_where_the_interval_excludes_zero():
    rng = np.random.default_rng(0)
    for gap in np.linspace(0, 8, 20):
        found = difference(*(Scores(rng.normal(size=4) + shift, exact=True) for shift in (gap, 0)))
        assert (found.p < ALPHA) == (found.low > 0 or found.high < 0)


def test_the_bar_rises_with_contestants_and_falls_with_seeds():
    seeds = range(2, 40)
    for contestants in (2, 6, 7, 16, 40):
        values = [critical_t(contestants, n) for n in seeds]
        assert values == sorted(values, reverse=True)
    for n in seeds:
        values = [critical_t(contestants, n) for contestants in range(2, 60)]
        assert values == sorted(values)
    with pytest.raises(UserError, match="at least two of both"):
        critical_t(2, 1)


HARD = [
    Case("normal", "equal", "all equal"),
    Case("normal", "one loud", "all equal"),
    Case("left 2", "one loud", "all equal"),
    Case("mixed 2", "half exact", "all equal"),
    Case("right 2", "1 to 10", "two equal"),
]


@pytest.mark.parametrize("contestants", [2, 7, 16])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_few_reports_claim_what_is_not_so(contestants, seeds):
    runs, bar = 3000, critical_t(contestants, seeds)
    for case in HARD:
        found = false_claims(case, contestants, seeds, rng=np.random.default_rng(seeds), runs=runs)
        for ratios in found:  # .05 and three standard errors of the simulation
            assert (ratios > bar).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_a_gap_of_five_deviations_is_found_at_five_seeds():
    leads = true_leads(7, 5, 5.0, rng=np.random.default_rng(0), runs=4000)
    assert (leads > critical_t(7, 5)).mean() >= 0.8
    assert (leads > critical_t(7, 5)).all(axis=1).mean() >= 0.8  # all six at once


def test_the_simulation_draws_what_it_says():
    for shape, skewness in (("normal", 0), ("right 1", 1), ("left 1", -1), ("right 2", 2), ("left 2", -2)):
        values = _draw(shape, (200, 10, 100), np.random.default_rng(0)).reshape(-1)  # 200,000
        assert values.mean() == pytest.approx(0, abs=0.01)
        assert values.std() == pytest.approx(1, abs=0.02)
        assert stats.skew(values) == pytest.approx(skewness, abs=0.1)
    assert len(list(cases(7))) == len(SHAPES) * len(SPREADS) * 3


@pytest.mark.slow
@pytest.mark.parametrize("contestants", [2, 3, 5, 7, 11, 16])
@pytest.mark.parametrize("seeds", [3, 5, 8, 10])
def test_no_case_has_more_false_claims_than_one_in_twenty(contestants, seeds):
    runs, bar = 4000, critical_t(contestants, seeds)
    for case in cases(contestants):
        found = false_claims(case, contestants, seeds, rng=np.random.default_rng(1), runs=runs)
        for ratios in found:
            assert (ratios > bar).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs), case


def test_the_page_repeats_what_was_measured():
    page = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    summary = json.loads((ROOT / "docs" / "comparison_errors.json").read_text(encoding="utf-8"))
    assert with_table(page, "comparison_errors.py", table(summary)) == page
    for row in summary["rows"]:
        assert row["critical"] == pytest.approx(critical_t(row["contestants"], row["seeds"]))
        assert max(row["false"], row["false_normal"], row["false_reference"]) <= 0.05
    (seven,) = (row for row in summary["rows"] if (row["contestants"], row["seeds"]) == (7, 5))
    assert seven["found"]["5"] >= 0.8
