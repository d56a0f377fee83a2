"""Seeds, completions and cost of a wanted difference, from pilots whose parts are known."""

import math

import numpy as np
import pytest
from scipy import stats

from bakeoff.errors import UserError
from bakeoff.reports import Results
from bakeoff.reports.analysis.plan_text import plan_lines
from bakeoff.reports.analysis.planning import plan
from bakeoff.reports.statistics.comparisons import critical_t
from bakeoff.reports.statistics.power import detectable_difference, seeds_needed


@pytest.fixture
def pilot(tmp_path, synthetic):
    """A writer of pilots: each learner's seeds are one deviation of ``spread`` apart, a fixed contestant has no scatter."""

    def write(spread=0.1, error=0.05, seeds=3, labels=("a", "b"), metric="objective", prompts=16, name="pilot", **cell):
        run = tmp_path / name
        planned = [("t", label, seed) for label in labels for seed in range(seeds)]
        task = {"kl_coef": 0.1, "evaluation_prompts": prompts}
        synthetic.write_manifest(run, suite={"name": "s"}, planned=planned, tasks={"t": task})
        for _, label, seed in planned:
            value = 0.5 + spread * (seed - 1)
            final = {"proxy": value, "kl": 0.5, metric: value}
            if metric == "objective" and error is not None:
                final["objective_within_se"] = error
            synthetic.write_cell(run, "t", label, seed, final=final, evaluate={"completions": 64, "samples": 0}, **cell)
        return Results.load(run)

    return write


WANTED = {"t": ["a", "b"]}


def test_options_and_costs(pilot):
    """Variance .01 between seeds, of which .0025 is the evaluation's 64 completions."""
    found = plan(pilot(), WANTED, 0.1)
    assert [option.completions for option in found.options] == [16, 32, 64, 128, 256, 512]
    for option in found.options:
        variance = 0.0075 + 0.0025 * 64 / option.completions
        assert option.seeds == seeds_needed(0.1, (variance, variance))
        assert option.cells == 2 * option.seeds
        # Every cell of the pilot spent 2,000 queries and 20 s on learning.
        assert option.meters["reward_queries"] == option.cells * 2000
        assert option.meters["trained_tokens"] == option.cells * 120_000
        assert (
            option.evaluated == option.cells * (5 + 1) * option.completions
        )  # five evaluations and the reference's set
    assert found.pilot_completions == 64
    # The pilot's cells took 2.5 + seed s in all, so nothing is left for evaluation, and fewest seeds are cheapest.
    assert found.cheapest is min(found.options, key=lambda option: option.seeds)
    (task,) = found.tasks
    assert task.seeds == seeds_needed(0.1, (0.01, 0.01))
    assert task.seeds_if_exact == seeds_needed(0.1, (0.0075, 0.0075))
    low, high = 0.01 * 4 / stats.chi2.ppf([0.975, 0.025], 4)
    assert task.seeds_range == (seeds_needed(0.1, (low, low)), seeds_needed(0.1, (high, high)))


def test_slow_evaluation_makes_seeds_cheaper_than_completions(pilot):
    results = pilot()
    results.cells["wall_seconds"] = 1020.0  # 1,000 s beside 20 s of learning
    found = plan(results, WANTED, 0.1)
    assert found.cheapest.completions == 16
    for option in found.options:
        assert option.wall_seconds == pytest.approx(option.cells * (20 + 1000 * option.completions / 64))


def test_planned_seeds_find_the_difference_in_80_percent(pilot):
    """From a pilot to simulated runs with its two parts: at the cheapest and at the pilot's own number of completions."""
    found = plan(pilot(labels=("a", "b", "c")), {"t": ["a", "b", "c"]}, 0.15)
    rng, runs = np.random.default_rng(0), 20_000
    for option in (found.cheapest, next(option for option in found.options if option.completions == 64)):
        n, sd = option.seeds, math.sqrt(0.0025 * 64 / option.completions)
        means = [
            shift + rng.normal(0, math.sqrt(0.0075), (runs, n)) + rng.normal(0, sd, (runs, n)) for shift in (0.15, 0.0)
        ]
        own = np.stack([values.var(1, ddof=1) for values in means])
        error = np.sqrt(np.maximum(own, own.mean(0)).sum(0) / n)
        share = float((means[0].mean(1) - means[1].mean(1) > critical_t(3, n) * error).mean())  # three contestants
        fewer = seeds_needed(0.15, (0.0075 + sd**2,) * 2, 3) - 1
        assert fewer == n - 1
        assert share > 0.8 - 4 * math.sqrt(0.16 / runs)
        assert share < 0.8 + 0.06  # a whole seed more is worth no more than this here


def test_exact_scores_have_one_option(pilot):
    found = plan(pilot(metric="normalized_score"), WANTED, 0.1)
    assert len(found.options) == 1
    assert found.options[0].evaluated == 0
    text = "\n".join(plan_lines(found))
    assert "evaluation is exact" in text
    assert "completions" not in text


def test_unknown_evaluation_error_has_one_option(pilot):
    found = plan(pilot(error=None), WANTED, 0.1)
    assert [option.completions for option in found.options] == [64]
    assert "too few texts are stored" in "\n".join(plan_lines(found))


def test_lines(pilot):
    lines = plan_lines(plan(pilot(prompts=1), WANTED, 0.1))
    text = "\n".join(lines)
    assert lines[0] == "t: a difference of 0.100 in objective, found with 80 % power (5 % error)"
    assert "about 75 % of the variance is training, 25 % evaluation sampling with 64 completions" in text
    assert "  a               3      0.100     0.087       0.050" in lines
    assert (
        "training dominates: seeds count more than completions; evaluation without any error would need "
        f"{seeds_needed(0.1, (0.0075, 0.0075))} seeds" in text
    )
    assert "Note: t is evaluated on one prompt, so the plan holds for that prompt alone." in lines
    assert text.count("cheapest") == 1
    dominated = plan_lines(plan(pilot(error=0.2, name="other"), WANTED, 0.1))
    assert any(line.endswith("evaluation sampling dominates: completions count as much as seeds") for line in dominated)


@pytest.mark.parametrize("difference", [0, -0.1, math.nan, math.inf])
def test_differences_that_are_none(pilot, difference):
    with pytest.raises(UserError, match="give a number above 0"):
        plan(pilot(), WANTED, difference)


def test_pilots_that_say_nothing(pilot):
    def refused(results, wanted=WANTED, difference=0.1):
        with pytest.raises(UserError) as refusal:
            plan(results, wanted, difference)
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    assert "one finished seed, which cannot show how seeds scatter, of t / a, t / b; run" in refused(
        pilot(seeds=1, name="one")
    )
    assert "no finished cell of this suite" in refused(pilot(status="failed", name="failed"))
    results = pilot(labels=("a",), name="alone")
    assert "no finished cell of t / b; run" in refused(results)
    assert "a alone; a plan compares two contestants" in refused(results, {"t": ["a"]})
    agree = pilot(spread=0.0, metric="normalized_score", name="agree")
    assert "scores of all 3 seeds agree" in refused(agree)
    smallest = detectable_difference((0.01, 0.01), (3, 3))
    assert f"needs more than 10,000 seeds; the pilot's own seeds find {smallest:.3f} on t" in refused(
        pilot(name="tiny"), difference=1e-4
    )
