import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy import stats

from bakeoff import seeding
from bakeoff.algos.core.build import build
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation import text_metrics
from bakeoff.benchmarks.evaluation.evaluator import Evaluator, evaluation_rows
from bakeoff.benchmarks.evaluation.standard_error import error_within_prompts
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.exact.rewards import TableReward


def test_distinct_and_repetition_by_hand() -> None:
    texts = ["a b a b", "a c"]
    assert text_metrics.distinct(texts, 1) == 3 / 6  # a b c of a b a b a c
    assert text_metrics.distinct(texts, 2) == 3 / 4  # ab ba ac of ab ba ab ac
    assert text_metrics.mean_repetition(texts) == pytest.approx((1 / 3 + 0) / 2)  # ab comes twice among three pairs
    assert text_metrics.mean_repetition(["one", ""]) == text_metrics.distinct(["", " "], 1) == 0
    assert text_metrics.mean_repetition(["best this best this best"]) == pytest.approx(1 - 2 / 4)


def test_prompts_are_taken_in_turn_or_spread() -> None:
    assert evaluation_rows(3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert evaluation_rows(10, 4).tolist() == [0, 2, 5, 7]


def test_error_of_a_mean_given_the_prompts() -> None:
    rows = np.array([0, 1, 0, 1])
    # Deviations 1 about prompt 0's mean of 1 and 2 about prompt 1's of 12: (1 + 1 + 4 + 4) / (4 - 2) / 4.
    assert error_within_prompts(np.array([0.0, 10.0, 2.0, 14.0]), rows) == pytest.approx(math.sqrt(10 / 2 / 4))
    assert error_within_prompts(np.array([0.0, 10.0, 0.0, 10.0]), rows) == 0
    assert error_within_prompts(np.array([0.0, 10.0]), rows[:2]) is None
    assert math.isnan(error_within_prompts(np.array([-math.inf, 10.0, 0.0, 10.0]), rows))


def test_error_given_the_prompts_is_the_scatter_of_means() -> None:
    rng = np.random.default_rng(0)
    rows = evaluation_rows(8, 32)
    difficulty = rng.normal(0, 5, 8)[rows]
    values = difficulty + rng.normal(0, 2, (4000, 32))
    errors = [error_within_prompts(sample, rows) for sample in values]
    # The deviation of 4,000 means is known to 1/sqrt(2 * 4000) = 1.1 %.
    assert float(np.mean(np.square(errors))) ** 0.5 == pytest.approx(values.mean(1).std(), rel=0.045)


@pytest.fixture(scope="module")
def task(cache: TaskCache):
    return cache.task("exact", {})


def test_the_untrained_policy_is_the_reference(task) -> None:
    algorithm = build("ppo", {}, task, Budget(reward_queries=1000), 0)
    found = Evaluator(task, 32, 5, 1, 2).evaluate(algorithm.contestant())
    assert found.metrics["kl"] == found.metrics["kl_se"] == 0
    assert found.metrics["exact_kl"] == pytest.approx(0, abs=1e-6)
    assert found.metrics["normalized_score"] == pytest.approx(0, abs=1e-6)
    assert found.metrics["objective"] == found.metrics["proxy"]
    assert set(found.metrics) == {
        "proxy", "proxy_se", "kl", "kl_se", "objective", "objective_se", "objective_within_se", "win_rate",
        "entropy", "length", "distinct_1", "distinct_2", "repetition",
        "reference_nll", "exact_reward", "exact_kl", "exact_objective", "normalized_score",
    }  # fmt: skip
    assert [sample["prompt_index"] for sample in found.samples] == [0, 1, 2, 3, 0]
    assert found.samples[0].keys() == {
        "prompt", "prompt_index", "completion", "proxy", "gold", "kl", "length", "win", "reference_completion",
        "tokens", "log_ratios",
    }  # fmt: skip
    assert all(sample["log_ratios"] == [0.0] * sample["length"] for sample in found.samples)


def test_same_prompts_and_uniforms_at_every_evaluation(task) -> None:
    contestant = build("reference", {}, task, Budget(reward_queries=10), 0).contestant()
    evaluator = Evaluator(task, 32, 32, 1, 2)
    again = Evaluator(task, 32, 32, 1, 2).evaluate(contestant)
    assert evaluator.evaluate(contestant) == evaluator.evaluate(contestant) == again
    other = Evaluator(task, 32, 32, 3, 2).evaluate(contestant)
    texts = [[sample["completion"] for sample in found.samples] for found in (evaluator.evaluate(contestant), other)]
    assert texts[0] != texts[1]


class Fixed:
    """Answers with completions that were sampled before, and claims a KL of 1, 2, 3, ..."""

    def __init__(self, answer) -> None:
        self._answer = answer

    def generate(self, envs, generator):
        return self._answer

    def statistics(self, completions) -> Mapping[str, torch.Tensor]:
        count = len(completions)
        return {"kl": torch.arange(1.0, count + 1), "entropy": torch.full((count,), 0.5)}

    def sequence_logprobs(self, enumeration):
        return enumeration.reference_logprobs_QN


def test_metrics_by_hand(task) -> None:
    judged = dataclasses.replace(task, enumeration=None, gold=lambda completions, prompt_index: prompt_index)
    evaluator = Evaluator(judged, 8, 8, 1, 2)
    reference, _ = evaluator._reference(2)
    found = evaluator.evaluate(Fixed(reference.completions))
    assert found.metrics["kl"] == 4.5
    assert found.metrics["kl_se"] == pytest.approx(math.sqrt(6) / math.sqrt(8))  # the variance of 1..8 is 6
    assert found.metrics["objective"] == pytest.approx(found.metrics["proxy"] - task.kl_coef * 4.5)
    value = np.array([s["proxy"] - task.kl_coef * s["kl"] for s in found.samples]).reshape(
        2, 4
    )  # prompts 0 1 2 3, twice
    within = ((value - value.mean(0)) ** 2).sum() / (8 - 4)
    assert found.metrics["objective_within_se"] == pytest.approx(math.sqrt(within / 8))
    scores = np.array([sample["proxy"] for sample in found.samples])
    assert found.metrics["proxy_se"] == pytest.approx(stats.sem(scores))
    # Reward and KL of a completion belong together, so their errors do not add up.
    assert found.metrics["objective_se"] == pytest.approx(stats.sem(scores - task.kl_coef * np.arange(1.0, 9)))
    assert found.metrics["gold"] == 1.5  # prompts 0 1 2 3, twice
    assert found.metrics["gold_se"] == pytest.approx(math.sqrt(10 / 7 / 8))  # squares about 1.5 sum to 10
    assert found.metrics["win_rate"] == 0.5  # all ties, by the gold judge
    assert found.metrics["entropy"] == 0.5
    better = Evaluator(dataclasses.replace(task, enumeration=None), 8, 8, 1, 2)
    best = task.enumeration.rewards_QN.argmax(1)
    rows = torch.arange(8) % 4
    assert better.evaluate(Fixed(task.enumeration.completions(rows, best[rows]))).metrics["win_rate"] == 1.0


def test_evaluation_leaves_meter_and_generators_alone(task) -> None:
    algorithm = build("best_of_n", {"n": 4}, task, Budget(reward_queries=1000), 0)
    algorithm.update()
    before = algorithm.meter_state = algorithm.envs.meter.snapshot(), algorithm.rng.get_state().clone()
    torch.manual_seed(5)
    random_before = seeding.global_randomness()
    with algorithm.envs.meter.pause():
        Evaluator(task, 16, 2, 1, 2).evaluate(algorithm.contestant())
    assert algorithm.envs.meter.snapshot() == before[0]
    assert torch.equal(algorithm.rng.get_state(), before[1])
    assert torch.equal(seeding.global_randomness()["torch"], random_before["torch"])
    assert np.array_equal(seeding.global_randomness()["numpy"][1], random_before["numpy"][1])


def test_log_ratios_of_contestant_to_reference(task) -> None:
    algorithm = build("rloo", {"learning_rate": 0.01, "warmup_steps": 0}, task, Budget(reward_queries=1000), 0)
    algorithm.update()
    evaluator = Evaluator(task, 16, 16, 1, 2)
    samples = evaluator.evaluate(algorithm.contestant()).samples
    evaluator._reset()
    answers = algorithm.policy.generate(evaluator._envs, torch.Generator().manual_seed(1))
    ours_BT = algorithm.policy.model.token_logprobs(answers)
    theirs_BT = task.language_model.token_logprobs(answers)
    for sample, ours, theirs, mask in zip(samples, ours_BT, theirs_BT, answers.mask_BT, strict=True):
        np.testing.assert_allclose(sample["log_ratios"], (ours - theirs)[mask].detach().numpy(), atol=6e-4)
        ended = sample["tokens"][-1] == task.language_model.tokenizer.eos_token
        assert "".join(sample["tokens"][:-1] if ended else sample["tokens"]) == sample["completion"]
    assert max(abs(ratio) for sample in samples for ratio in sample["log_ratios"]) > 0.01


def test_who_has_no_log_probabilities_tells_none(task) -> None:
    algorithm = build("best_of_n", {"n": 4}, task, Budget(reward_queries=1000), 0)
    algorithm.update()
    (sample,) = Evaluator(task, 16, 1, 1, 2).evaluate(algorithm.contestant()).samples
    assert sample["log_ratios"] is None
    assert len(sample["tokens"]) == sample["length"]


def test_long_answers_are_cut_and_missing_ratios_null(task, monkeypatch) -> None:
    from bakeoff.benchmarks.evaluation import token_ratios

    monkeypatch.setattr(token_ratios, "MOST_TOKENS", 2)
    answers = task.enumeration.completions(torch.tensor([0]), torch.tensor([task.enumeration.tree.num_leaves - 1]))
    answers = dataclasses.replace(answers, logprobs_BT=torch.full(answers.tokens_BT.shape, -torch.inf))
    (told,) = token_ratios.token_ratios(task.language_model, answers)
    assert len(told.tokens) == 2
    assert told.log_ratios == [None, None]


def best_of_n_metrics(task, n: int) -> dict[str, float]:
    algorithm = build("best_of_n", {"n": n, "batch_size": 4 * n}, task, Budget(reward_queries=1000), 0)
    algorithm.update()
    return Evaluator(task, 64, 1, 1, 2).evaluate(algorithm.contestant()).metrics


@pytest.mark.parametrize("n", [2, 8, 16])
def test_kl_of_best_of_n_is_near_the_exact_one(task, n) -> None:
    metrics = best_of_n_metrics(task, n)
    assert metrics["kl"] == pytest.approx(metrics["exact_kl"], abs=0.05)


@pytest.mark.parametrize(("n", "met"), [(8, 0.984), (8, 0.5), (2, 0.5)])
def test_kl_of_best_of_n_under_a_yes_or_no_reward(task, n, met) -> None:
    """Its upper bound at n = 8 is 1.204: where the reference meets the reward with .984, the KL is -ln .984 = .016."""
    reference = task.enumeration.reference_logprobs_QN
    order = torch.randperm(reference.shape[1], generator=torch.Generator().manual_seed(3))
    rewards = torch.empty_like(reference)
    rewards[:, order] = (reference[:, order].exp().cumsum(1) > 1 - met).double()
    enumeration = dataclasses.replace(task.enumeration, rewards_QN=rewards, kl_coef=0.2)
    prompts = task.prompts.of_split("evaluation")[0]
    reward = TableReward(task.language_model, enumeration.tree, prompts, rewards)
    metrics = best_of_n_metrics(dataclasses.replace(task, reward=reward, enumeration=enumeration, kl_coef=0.2), n)
    if (n, met) == (8, 0.984):
        assert metrics["exact_kl"] == pytest.approx(0.016, abs=1e-3)
        assert metrics["exact_objective"] == pytest.approx(0.997, abs=1e-3)
        assert metrics["objective"] == pytest.approx(metrics["exact_objective"], abs=0.01)
    # 64 answers: 4 standard errors and the bias, .006 where eight candidates come together
    assert 0 < metrics["kl_se"] < 0.06
    assert metrics["kl"] == pytest.approx(metrics["exact_kl"], abs=4 * metrics["kl_se"] + 0.006)
