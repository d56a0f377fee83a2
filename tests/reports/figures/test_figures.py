"""What figures compute before they draw."""

import numpy as np
import pandas as pd
import pytest

from bakeoff.reports.data.entries import family
from bakeoff.reports.figures.curves import band, on_common_grid
from bakeoff.reports.figures.drift import mean_along
from bakeoff.reports.figures.frontier import best_of_n_curve
from bakeoff.reports.figures.labels import spread
from bakeoff.reports.figures.style import PALETTE, FigureStyle


def test_labels_move_apart_as_little_as_they_can():
    assert spread([5.0, 50.0], 10, 0, 100) == [5, 50]
    assert spread([20.0, 20.0, 26.0], 10, 0, 100) == [12, 22, 32]
    assert spread([0.0, 1.0], 10, 0, 100) == [0, 10]
    assert np.diff(spread([99.0] * 6, 10, 0, 100)).min() == pytest.approx(10)
    assert spread([1.0] * 11, 20, 0, 100)[-1] <= 100.001  # no room: closer together, never outside


def test_a_contestant_keeps_its_color(results):
    styles = FigureStyle.of(results)
    assert styles["reference"].color not in PALETTE
    assert len({styles[label].color for label in ("best_of_n", "ppo", "dpo")}) == 3
    assert family("ppo[kl_coef=0.1]") == "ppo"
    assert family("ppo[kl_coef=0.1] [run]") == "ppo [run]"
    assert family("ppo [run]") == "ppo [run]"


def test_seeds_meet_on_one_grid():
    a = pd.DataFrame({"reward_queries": [0, 10, 20], "proxy": [0.0, 1.0, 2.0]})
    b = pd.DataFrame({"reward_queries": [0, 10, 15], "proxy": [0.0, 0.0, 1.0]})
    grid, values = on_common_grid([a, b], "reward_queries", "proxy")
    np.testing.assert_allclose(grid, [0, 10, 15])
    np.testing.assert_allclose(values, [[0, 1, 1.5], [0, 0, 1]])


def test_the_band_holds_the_mean():
    low, high = band(np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]]), "x")
    np.testing.assert_allclose([low[0], high[0]], [0, 2])
    assert low[1] == high[1] == 5


def _frames(prompts, kl=0.0):
    keys = {"run": "r", "task": "t", "label": "a", "seed": 0, "step": 0}
    first = pd.DataFrame([{**keys, "kl": kl}])
    rows = [{**keys, "prompt": p, "completion": "c", "proxy": s} for p, scores in prompts.items() for s in scores]
    return pd.DataFrame(rows), first


def test_best_of_n_within_prompts():
    samples, first = _frames({"p": [0.0, 1, 2, 3, 4, 5, 6, 7], "q": [10.0] * 8})
    curve = best_of_n_curve(samples, first, "t")
    assert (curve.samples, curve.pooled) == (16, False)
    assert curve.n.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    # The mean maximum over n-subsets of 0..7 is n * 9 / (n + 1) - 1; q is always 10.
    np.testing.assert_allclose(curve.reward, [(n * 9 / (n + 1) - 1 + 10) / 2 for n in range(1, 9)])
    # p has no ties, so its KL is ln n - (n - 1)/n; the best of q's equal answers is the reference: 0.
    np.testing.assert_allclose(curve.kl[[0, 1, 3, 7]], np.array([0, 0.1931, 0.6363, 1.2044]) / 2, atol=5e-5)
    assert not curve.bound


def test_kl_of_best_of_n_under_a_yes_or_no_reward():
    rng = np.random.default_rng(0)
    samples, first = _frames({f"p{i}": list((rng.random(24) < 0.984).astype(float)) for i in range(100)})
    curve = best_of_n_curve(samples, first, "t")
    # Of 100 prompts with 24 samples each: the exact KL is -ln .984 from n = 4 on, not 1.2 at 8.
    assert float(np.interp(8, curve.n, curve.kl)) == pytest.approx(0.016, abs=0.01)
    assert not curve.bound


def test_few_samples_that_tie_are_not_pooled():
    samples, first = _frames({f"p{i}": [1.0, 1.0, float(i % 2)] for i in range(8)})
    curve = best_of_n_curve(samples, first, "t")
    assert (curve.pooled, curve.bound, curve.n.tolist()) == (False, False, [1, 2, 3])
    assert curve.reward.max() <= 1.0  # pooled scatter would promise more than any answer has
    assert 0 < curve.kl[1] <= 0.1932 / 2  # in every other prompt all answers tie


def test_best_of_n_does_not_choose_among_prompts():
    # Prompts differ by tens, answers of one prompt by 2: pooling raw scores would promise tens.
    samples, first = _frames({f"p{i}": [10.0 * i, 10.0 * i + 2] for i in range(8)})
    curve = best_of_n_curve(samples, first, "t")
    assert (curve.samples, curve.pooled, curve.bound) == (16, True, True)
    assert curve.n.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(curve.kl[[0, 1, 3]], [0, 0.1931, 0.6363], atol=5e-5)
    # Scatter is +-sqrt(2), half of each: the best of two fresh ones of 16 is -sqrt(2) with chance 8*7 / (16*15).
    assert curve.reward[0] == pytest.approx(36)
    assert curve.reward[1] == pytest.approx(36 + np.sqrt(2) * (1 - 2 * 56 / 240))


def test_best_of_n_starts_at_the_mean_of_the_whole_evaluation():
    samples, first = _frames({"p": [0.0, 1, 2, 3, 4, 5, 6, 7], "q": [10.0] * 8})
    curve = best_of_n_curve(samples, first.assign(proxy=1.0), "t")
    np.testing.assert_allclose(curve.reward[:2], [1.0, 1.0 + (2 * 9 / 3 - 1 - 3.5) / 2])


def test_no_best_of_n_without_reference_samples():
    samples, first = _frames({"p": [0.0] * 20}, kl=1.0)
    assert best_of_n_curve(samples, first, "t") is None  # the first policy was not the reference
    samples, first = _frames({"p": [0.0] * 3})
    assert best_of_n_curve(samples, first, "t") is None  # too few
    samples, first = _frames({f"p{i}": [float(i)] for i in range(30)})
    assert best_of_n_curve(samples, first, "t") is None  # one per prompt


def test_seeds_without_a_common_range_are_drawn_all_the_same():
    early = pd.DataFrame({"seconds": [0.1, 1.0], "proxy": [0.0, 1.0]})
    late = pd.DataFrame({"seconds": [5.0, 6.0], "proxy": [2.0, 3.0]})
    grid, values = on_common_grid([early, late], "seconds", "proxy")
    np.testing.assert_allclose(grid, [0.1, 1, 5, 6])
    np.testing.assert_allclose(values, [[0, 1, 1, 1], [2, 2, 2, 3]])


def test_best_of_n_takes_a_seeds_samples_once():
    """Another run with the same seed has the same first samples."""
    samples, first = _frames({"p": [0.0, 1, 2, 3, 4, 5, 6, 7], "q": [10.0] * 8})
    once = best_of_n_curve(samples, first, "t")
    twice = best_of_n_curve(
        pd.concat([samples, samples.assign(run="s")]), pd.concat([first, first.assign(run="s")]), "t"
    )
    assert twice.samples == once.samples == 16
    np.testing.assert_array_equal(twice.reward, once.reward)
    other = samples.assign(run="s", seed=1)
    both = best_of_n_curve(pd.concat([samples, other]), pd.concat([first, first.assign(run="s", seed=1)]), "t")
    assert both.samples == 32


def test_a_seed_that_stopped_early_stays_in_the_mean():
    keys = {"run": "r", "task": "t"}
    rows = [{**keys, "seed": 0, "kl": float(k), "gold": 2.0 * k} for k in range(4)]
    rows += [{**keys, "seed": 1, "kl": float(k), "gold": -1.0 * k} for k in range(2)]
    path = mean_along(pd.DataFrame(rows), ["kl", "gold"])
    np.testing.assert_allclose(path, [[0, 0], [1, 0.5], [1.5, 1.5], [2, 2.5]])
