"""Fits recover the coefficients that made the data, and their peaks are the ones that calculus gives."""

import numpy as np
import pytest

from bakeoff.errors import UserError
from bakeoff.reports import Results
from bakeoff.reports.analysis.gold_curves import gold_curves, sentences, table
from bakeoff.reports.analysis.gold_fits import (
    GOOD_ENOUGH,
    Curve,
    Form,
    SeedFit,
    fit_gold,
    fit_over_seeds,
    measured_turn,
)


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


def test_gold_that_falls_at_once_peaks_at_the_reference():
    d = np.linspace(0, 4, 9)
    fit = fit_gold(d, d * (-1.2 - 0.3 * d), "quadratic")
    assert (fit.a, fit.b, fit.peak, fit.peak_gold) == pytest.approx((-1.2, 0.3, 0.0, 0.0))
    curves = [Curve(d, d * (-1.2 - 0.3 * d) + 0.01 * seed * d) for seed in range(3)]
    found = fit_over_seeds(curves, "quadratic", np.random.default_rng(0), 100)
    assert found is not None
    assert stated(found, curves) == "gold falls from the reference on"
    assert (found.peak.low, found.peak.high) == (0.0, 0.0)


def test_too_little_to_fit():
    with pytest.raises(UserError, match="fewer than three"):
        fit_gold([0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 1.0, 1.0], "logarithmic")
    with pytest.raises(UserError, match='use "quadratic" or "logarithmic"'):
        fit_gold([1.0, 2, 3], [1.0, 2, 3], "ppo")


D = np.linspace(0, 4, 9)


def stated(found: SeedFit | None, curves: list[Curve]) -> str:
    """What is said of a fit beside the fall that was measured on the same curves."""
    turn = measured_turn(curves)
    assert found is not None
    assert turn is not None
    return found.statement(turn.fall)


def curves(a: float, b: float, noise: float, seeds: int, rng: np.random.Generator) -> list[Curve]:
    """Gold over d by the form for reinforcement learning, every seed with its own errors."""
    gain = D * (a - b * np.log(np.maximum(D, 1e-9)))
    return [Curve(D, np.where(D > 0, gain + noise * rng.normal(size=len(D)), 0.0)) for _ in range(seeds)]


def test_coverage_of_intervals_with_few_seeds():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(40):
        found = fit_over_seeds(curves(1.0, 0.8, 0.1, 5, rng), "logarithmic", rng, resamples=100)
        held.append(found.b.low <= 0.8 <= found.b.high)
    assert 0.85 < np.mean(held) <= 1.0  # nominal 0.95, and 40 draws of it have a standard error of 0.034


def test_a_good_fit_says_where_the_peak_is():
    seeds = curves(1.0, 0.8, 0.05, 3, np.random.default_rng(0))
    found = fit_over_seeds(seeds, "logarithmic", np.random.default_rng(1))
    assert found.r_squared > 0.9
    assert found.fit.peak == pytest.approx(np.exp(0.25), rel=0.1)
    assert stated(found, seeds).startswith("gold peaks at √KL 1.")
    assert found.peak.low <= found.fit.peak <= found.peak.high


def test_what_the_data_do_not_support_is_said():
    rng = np.random.default_rng(0)

    def said(seeds: list[Curve], form: Form) -> str:
        return stated(fit_over_seeds(seeds, form, rng), seeds)

    noise = [Curve(D, np.where(D > 0, rng.normal(size=len(D)), 0.0)) for _ in range(3)]
    assert "does not describe these data" in said(noise, "logarithmic")
    rising = [Curve(D, D**2 + 0.01 * rng.normal(size=len(D))) for _ in range(3)]
    assert said(rising, "quadratic") == "no turn: gold does not bend down"
    early = curves(2.0, 0.5, 0.02, 3, rng)  # peaks at e^3
    assert said(early, "logarithmic").startswith("no turn within what was measured")
    assert said(curves(1.0, 0.8, 0.0, 1, rng), "logarithmic").startswith("one seed")
    assert fit_over_seeds([Curve(D[:4], D[:4])], "quadratic", rng) is None  # three points away from the reference
    assert fit_over_seeds([], "quadratic", rng) is None


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_a_plateau_is_no_peak(noise: float) -> None:
    """Gold that rises and stays: the fits themselves turn down, so that only the measured fall can tell."""
    rng = np.random.default_rng(1)
    claimed = turned = 0
    for _ in range(100):
        seeds = [Curve(D, np.where(D > 0, 1 - np.exp(-2 * D) + noise * rng.normal(size=len(D)), 0)) for _ in range(3)]
        found = fit_over_seeds(seeds, "logarithmic", rng, 100)
        claimed += stated(found, seeds).startswith("gold peaks")
        turned += found.r_squared >= GOOD_ENOUGH and 0 < found.fit.peak <= found.reach
    assert turned > 30  # the test would say nothing of fits that do not turn
    assert claimed <= 7  # one side of a 95 % interval is 2.5 %; more than 7 of 100 has a chance of 0.4 %


def test_intervals_by_hand():
    """Three seeds with b = 0.2, 0.3, 0.4: the mean 0.3, t(2) = 4.3027, deviation 0.1: 0.3 +- 0.2484."""
    seeds = [Curve(D, D * (1.2 - b * D)) for b in (0.2, 0.3, 0.4)]
    found = fit_over_seeds(seeds, "quadratic", np.random.default_rng(0), 100)
    assert found.b == pytest.approx((0.3, 0.3 - 0.2484, 0.3 + 0.2484), abs=1e-4)
    assert found.a == pytest.approx((1.2, 1.2, 1.2))


def test_the_measured_peak_and_what_lies_past_it():
    turn = measured_turn([Curve(D, gain) for gain in (-((D - 2) ** 2) + 4, -((D - 2) ** 2) + 4.2)])
    assert (turn.distance, turn.gain, turn.end_distance) == (2.0, 4.1, 4.0)
    assert turn.fall == pytest.approx((4.0, 4.0, 4.0))


def test_the_best_of_noise_is_no_peak():
    rng = np.random.default_rng(0)
    falls, sure = [], []
    for _ in range(300):
        turn = measured_turn([Curve(D, rng.normal(size=len(D))) for _ in range(3)])
        falls.append(turn.fall.value)
        sure.append(turn.fall.low > 0)
    assert abs(np.mean(falls)) < 0.15  # the highest mean itself lies 0.86 above
    assert np.mean(sure) < 0.06  # one side of a 95 % interval: 0.025


def test_a_seed_that_stopped_early_stays_where_it_ended():
    long, short = Curve(D, D), Curve(D[:3], D[:3])
    turn = measured_turn([long, short])
    assert turn.end_gain == (4.0 + 1.0) / 2


def test_rows_of_the_table(tmp_path, synthetic):
    planned = [
        ("reviews", label, seed) for label in ("reference", "best_of_2", "best_of_8", "ppo") for seed in range(3)
    ]
    for task, label, seed in planned:
        n = {"best_of_2": 0.19, "best_of_8": 1.2}.get(label, 0.0)
        final = {"proxy": 2.0, "gold": 1.0 + n + 0.01 * seed if n else (3.0 if label == "ppo" else 1.0), "kl": n}
        if label == "ppo":
            final["kl"] = 4.0
        folder = synthetic.write_cell(
            tmp_path,
            task,
            label,
            seed,
            final=final,
            first={"proxy": 0.0, "gold": 1.0},
            algorithm="best_of_n" if n else label,
            data_source="online" if label == "ppo" else "none",
        )
        if n:  # its first evaluation is of the reference
            synthetic._write_lines(
                folder / "metrics.jsonl",
                [
                    {**METERS, "step": 0, "phase": "eval", "metrics": {"proxy": 0.0, "gold": 1.0, "kl": 0.0}},
                    {**METERS, "step": 1, "phase": "eval", "metrics": final},
                ],
            )
    synthetic.write_manifest(tmp_path, suite={}, planned=planned, tasks={})
    results = Results.load(tmp_path)
    best, ppo = gold_curves(results, "reviews")
    assert (best.name, best.labels, best.form) == ("best_of_n", ("best_of_2", "best_of_8"), "quadratic")
    np.testing.assert_allclose(best.curves[0].distance, np.sqrt([0, 0.19, 1.2]))
    np.testing.assert_allclose(best.curves[1].gain, [0, 0.2, 1.21])
    assert best.fit is None
    assert (ppo.name, ppo.form, ppo.start) == ("ppo", "logarithmic", 1.0)
    rows = table(results)
    assert rows["statement"].tolist()[0] == "too few evaluations away from the reference to fit"
    assert rows["end_gain"].tolist() == pytest.approx([1.21, 2.0])
    assert sentences(results, "reviews") == ["No fall of gold past its peak that the seeds agree on: best_of_n, ppo."]


METERS = {"generated_tokens": 0, "reward_queries": 0, "trained_tokens": 0, "seconds": 0.0}
