"""What figures compute before they draw."""

import numpy as np
import pandas as pd
import pytest

from bakeoff.reports.figures.curves import band, on_common_grid
from bakeoff.reports.figures.frontier import best_of_n_curve
from bakeoff.reports.figures.labels import spread
from bakeoff.reports.figures.style import PALETTE, Look, family


def test_labels_move_apart_as_little_as_they_can():
    assert spread([5.0, 50.0], 10, 0, 100) == [5, 50]
    assert spread([20.0, 20.0, 26.0], 10, 0, 100) == [12, 22, 32]
    assert spread([0.0, 1.0], 10, 0, 100) == [0, 10]
    assert np.diff(spread([99.0] * 6, 10, 0, 100)).min() == pytest.approx(10)
    assert spread([1.0] * 11, 20, 0, 100)[-1] <= 100.001  # no room: closer together, never outside


def test_a_contestant_keeps_its_colour(results):
    look = Look.of(results)
    assert look["reference"].color not in PALETTE
    assert len({look[label].color for label in ("best_of_n", "ppo", "dpo")}) == 3
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
    samples, first = _frames({"p": [0.0, 1, 2, 3], "q": [10.0, 10, 10, 10]})
    curve = best_of_n_curve(samples, first, "t")
    assert (curve.samples, curve.pooled) == (8, False)
    assert curve.n.tolist() == [1, 2, 3, 4]
    # p: means of the maximum over subsets of 1, 2, 3, 4 are 1.5, 14/6, 2.75, 3; q: always 10.
    np.testing.assert_allclose(curve.reward, [(1.5 + 10) / 2, (14 / 6 + 10) / 2, (2.75 + 10) / 2, 6.5])
    np.testing.assert_allclose(curve.kl, [0, 0.1931, 0.4319, 0.6363], atol=5e-5)


def test_best_of_n_pools_when_prompts_have_too_few_samples():
    samples, first = _frames({f"p{i}": [float(i)] for i in range(12)})
    curve = best_of_n_curve(samples, first, "t")
    assert curve.pooled
    assert curve.n.tolist() == [1, 2, 3]
    assert curve.reward[0] == pytest.approx(5.5)


def test_no_best_of_n_without_reference_samples():
    samples, first = _frames({"p": [0.0] * 20}, kl=1.0)
    assert best_of_n_curve(samples, first, "t") is None
    samples, first = _frames({"p": [0.0] * 3})
    assert best_of_n_curve(samples, first, "t") is None
