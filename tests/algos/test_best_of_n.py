"""Best of n: its KL from the candidates' ties, answer by answer."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from bakeoff.algos.best_of_n import BestOfN, BestOfNSampler, kl_of_answers
from bakeoff.algos.core.build import build
from bakeoff.best_of_n_kl import best_of_n_kl
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.maths import best_of_n_kl_bound


def make(task: Task, n: int) -> BestOfN:
    algorithm = build("best_of_n", {"n": n, "batch_size": 4 * n}, task, Budget(reward_queries=1_000), 0)
    assert isinstance(algorithm, BestOfN)
    return algorithm


def test_each_answer_has_the_kl_of_its_candidates() -> None:
    scores_Bn = torch.tensor([[0.0] * 8, list(range(8)), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    kl_B = kl_of_answers(scores_Bn.double(), torch.tensor([0, 0, 1]))
    assert kl_B.tolist() == pytest.approx([0, best_of_n_kl_bound(8), best_of_n_kl(scores_Bn[2], 8)])


def test_few_candidates_of_one_prompt_count_together() -> None:
    scores_Bn = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0], [1, 1], [1, 0]], dtype=torch.float64)
    kl_B = kl_of_answers(scores_Bn, torch.tensor([0, 0, 0, 5, 0, 6]))
    rows = torch.tensor([0, 1, 2, 4])  # eight candidates of prompt 0
    assert float(kl_B[rows].mean()) == pytest.approx(best_of_n_kl([0, 0, 0, 1, 1, 0, 1, 1], 2))
    # Three times as far apart as the estimates without the one and without the other.
    apart = best_of_n_kl([0, 0, 0, 1, 1, 0], 2) - best_of_n_kl([0, 1, 1, 0, 1, 1], 2)
    assert float(kl_B[0] - kl_B[4]) == pytest.approx(3 * apart)
    assert float(kl_B[1]) == float(kl_B[2]) != float(kl_B[0])
    assert kl_B[[3, 5]].tolist() == pytest.approx([0, best_of_n_kl_bound(2)], abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_two_standard_errors_hold_the_truth(n: int) -> None:
    """In 95 % of 200 evaluations of 128 answers, four to a prompt, with a reward of 1 with chance .9 and 0 else."""
    rng, p = np.random.default_rng(n), 0.9
    low = (1 - p) ** n
    exact = low * math.log(low / (1 - p)) + (1 - low) * math.log((1 - low) / p)
    hits = 0
    for _ in range(200):
        scores_Bn = torch.from_numpy((rng.random((128, n)) < p).astype(float))
        kl_B = kl_of_answers(scores_Bn, torch.arange(128) // 4)
        hits += abs(float(kl_B.mean()) - exact) <= 2 * float(kl_B.std()) / 128**0.5
    assert hits >= 0.95 * 200 - 3 * (200 * 0.95 * 0.05) ** 0.5  # three deviations of the count


def test_an_update_reports_the_estimate(exact: Task) -> None:
    """All rewards alike: the best of n is the reference, and its KL 0. Else hardly any tie, and it is near the bound."""
    alike = dataclasses.replace(exact, reward=lambda completions, **_: [1.0] * len(completions), enumeration=None)
    assert make(alike, 4).update()["kl"] == pytest.approx(0, abs=1e-12)
    assert make(exact, 4).update()["kl"] == pytest.approx(best_of_n_kl_bound(4), abs=0.1)


def test_without_candidates_a_bound_remains(exact: Task) -> None:
    algorithm = make(exact, 4)
    algorithm.update()
    contestant = algorithm.contestant()
    assert isinstance(contestant, BestOfNSampler)
    algorithm.envs.reset(seed=0)
    answers = contestant.generate(algorithm.envs, torch.Generator().manual_seed(0))
    found = contestant.statistics(answers.select([0, 1]))["kl"]
    assert found.tolist() == pytest.approx([best_of_n_kl_bound(4)] * 2)
    assert answers.logprobs_BT is None
