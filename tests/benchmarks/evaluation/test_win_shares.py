"""Win rates over the reference: independent pairs of completions of one prompt."""

import dataclasses

import numpy as np
import pytest
import torch

from bakeoff.algos.core.build import build
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation.evaluator import Evaluator
from bakeoff.benchmarks.evaluation.win_shares import next_of_prompt, win_rate, win_shares
from bakeoff.envs.meter import Budget


def test_shares_by_hand() -> None:
    scores, rivals = np.array([1.0, 5.0, 2.0, 0.0]), np.array([9.0, 5.0, 1.0, 2.0])
    prompts = np.array([0, 1, 0, 0])
    # Of prompt 0: 1 meets 9, 1, 2; 2 meets the same; so does 0.
    assert win_shares(scores, rivals, prompts, skip_own=False) == pytest.approx([0.5 / 3, 0.5, 1.5 / 3, 0])
    # Without the rival in the same row: 1 meets 1 and 2; 2 meets 9 and 2; 0 meets 9 and 1. Row 1 meets nobody.
    np.testing.assert_allclose(win_shares(scores, rivals, prompts, skip_own=True), [0.25, np.nan, 0.25, 0])
    assert win_rate(np.array([0.25, 0.5, 1.0])) == pytest.approx(1.75 / 3)
    assert next_of_prompt(prompts).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_the_reference_over_itself_is_one_half_by_construction(count) -> None:
    rng = np.random.default_rng(count)
    scores, prompts = rng.normal(size=4 * count).round(1), np.arange(4 * count) % 4
    assert win_rate(win_shares(scores, scores, prompts, skip_own=True)) == 0.5


def test_the_untrained_policy_wins_exactly_half(task) -> None:
    found = [
        Evaluator(task, 64, 1, seed, 1000 + seed).evaluate(_contestant(task, "reference")).metrics["win_rate"]
        for seed in range(3)
    ]
    assert found == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(("algorithm", "settings"), [("best_of_n", {"n": 4}), ("rloo", {"learning_rate": 0.02})])
def test_the_win_rate_is_that_of_independent_draws(task, algorithm, settings) -> None:
    """Against the enumerated chance; best of n uses its random numbers in other rows than the reference."""
    contestant = _contestant(task, algorithm, settings)
    exact = task.enumeration.win_rate(contestant.sequence_logprobs(task.enumeration))
    assert exact > 0.55
    found = [Evaluator(task, 64, 1, s, 1000 + s).evaluate(contestant).metrics["win_rate"] for s in range(60)]
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 3.5 * error
    assert error < 0.01


def test_a_prompt_with_one_completion_meets_a_second_draw(task) -> None:
    """Both draws differ, so the reference's own win rate is one half only on average."""
    sampled = dataclasses.replace(task, enumeration=None)
    contestant = _contestant(task, "reference")
    found = [Evaluator(sampled, 4, 4, s, 1000 + s).evaluate(contestant).metrics["win_rate"] for s in range(150)]
    assert len(set(found)) > 3
    assert abs(np.mean(found) - 0.5) < 3.5 * np.std(found, ddof=1) / np.sqrt(len(found))


def test_the_row_shows_a_completion_that_it_was_compared_with(task) -> None:
    evaluator = Evaluator(task, 8, 8, 1, 2)
    rows = evaluator.evaluate(_contestant(task, "reference")).samples
    first = evaluator._reference(1)[0].texts
    assert [row["completion"] for row in rows] == list(first)
    assert [row["reference_completion"] for row in rows] == [first[(row + 4) % 8] for row in range(8)]
    rows = evaluator.evaluate(_contestant(task, "best_of_n", {"n": 4})).samples
    assert [row["reference_completion"] for row in rows] == list(evaluator._reference(2)[0].texts)


@pytest.fixture(scope="module")
def task(cache: TaskCache):
    return cache.task("exact", {})


def _contestant(task, name, settings=None):
    torch.manual_seed(0)
    algorithm = build(name, settings or {}, task, Budget(reward_queries=2000), 0)
    if name != "reference":
        for _ in range(1 if name == "best_of_n" else 3):
            algorithm.update()
    return algorithm.contestant()
