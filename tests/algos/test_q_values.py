"""Learning values beside the language model: guided decoding, offline data, implicit Q-learning, Monte-Carlo Q, DQN."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build
from bakeoff.algos.core.guided_decoding import GuidedDecoder
from bakeoff.algos.dqn import DQN
from bakeoff.algos.ilql import ILQL, QHeads
from bakeoff.algos.mc_returns import MCReturns
from bakeoff.algos.preference_data.logged import read_logged
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError


def make(name: str, task: Task, queries: int = 2_000, **settings: Any) -> Any:
    return build(name, settings, task, Budget(reward_queries=queries), 0)


def score(algorithm: Algorithm, task: Task) -> float:
    assert task.enumeration is not None
    logprobs = algorithm.contestant().sequence_logprobs(task.enumeration)
    return task.enumeration.objective(logprobs)["normalized_score"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def evaluation_envs(task: Task, count: int = 64) -> TextGenerationVectorEnv:
    envs = TextGenerationVectorEnv.from_task(task, count, seed=0)
    envs.reset()
    return envs


# ---------------------------------------------------------------- guided decoding


def test_guided_by_nothing_it_samples_what_the_model_samples(exact: Task) -> None:
    """The same uniform numbers, the same tokens and log-probabilities as the plain sampler, and the same exact figures."""
    algorithm = make("q_learning", exact)
    algorithm.update()
    policy, envs = algorithm.policy, evaluation_envs(exact)
    decoder = GuidedDecoder(policy, lambda ours, theirs: policy.model.head(ours))
    ours, theirs = decoder.generate(envs, generator()), policy.generate(envs, generator())
    assert torch.equal(ours.tokens_BT, theirs.tokens_BT)
    assert torch.equal(ours.mask_BT, theirs.mask_BT)
    torch.testing.assert_close(ours.logprobs_BT, theirs.logprobs_BT)
    for name, values in policy.statistics(theirs).items():
        torch.testing.assert_close(decoder.statistics(ours)[name], values, rtol=1e-3, atol=1e-5)
    assert exact.enumeration is not None
    torch.testing.assert_close(
        decoder.sequence_logprobs(exact.enumeration), policy.sequence_logprobs(exact.enumeration), rtol=0, atol=1e-5
    )


def test_its_samples_have_the_kl_that_the_enumeration_knows(exact: Task) -> None:
    algorithm = make("ilql", exact)
    for _ in range(5):
        algorithm.update()
    decoder, envs = algorithm.decoded(5.0), evaluation_envs(exact, 512)
    kl = decoder.statistics(decoder.generate(envs, generator()))["kl"]
    assert exact.enumeration is not None
    known = exact.enumeration.objective(decoder.sequence_logprobs(exact.enumeration))["exact_kl"]
    assert known > 0.05
    assert abs(float(kl.mean()) - known) < 4 * float(kl.std()) / math.sqrt(512)


# ---------------------------------------------------------------- Q heads


def test_chosen_values_are_those_of_all_tokens(exact: Task) -> None:
    heads = QHeads(exact.language_model, generator())
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(1)))
        hidden, tokens = torch.randn(3, 4, 32, generator=generator(2)), torch.arange(12).reshape(3, 4) % 8
        every = heads.action_values(hidden.flatten(0, 1))
        assert every.shape == (12, 2, 8)
        expected = every.gather(2, tokens.flatten()[:, None, None].expand(12, 2, 1))[..., 0]
        torch.testing.assert_close(heads.chosen(hidden, tokens).flatten(0, 1), expected)
        torch.testing.assert_close(heads.logsumexp(hidden.flatten(0, 1)), every.logsumexp(-1))
        assert (every[:, 0] - every[:, 1]).abs().max() > 1e-3  # two heads, two opinions


def test_values_start_at_zero_with_a_frozen_embedding(exact: Task) -> None:
    heads = QHeads(exact.language_model, generator())
    assert not heads.action_values(torch.randn(2, 32)).any()
    assert not heads.values(torch.randn(2, 32)).any()
    width = 32
    perceptron = 2 * width * (width + 1)  # first layer
    assert sum(p.numel() for p in heads.parameters()) == 3 * perceptron + (2 * width + 1) * (2 * (width + 1) + 1)


# ---------------------------------------------------------------- offline data


def rows(count: int = 8) -> list[dict[str, Any]]:
    return [{"prompt": "a b", "completion": " c d", "reward": 0.5 * i, "step": i} for i in range(count)]


def test_logged_completions_are_read_from_rows_and_files(exact: Task, tmp_path: Path) -> None:
    completions, scores = read_logged(rows(3), exact.language_model, 5)
    assert scores.tolist() == [0.0, 0.5, 1.0]
    assert completions.tokens_BT[0, :3].tolist() == [2, 3, 7]  # c, d, end
    assert completions.lengths_B.tolist() == [3, 3, 3]
    path = tmp_path / "samples.jsonl"
    logged = [{"prompt": "a b", "completion": "c d", "proxy": -1.0, "gold": None, "prompt_index": 0}]
    path.write_text("\n".join(map(json.dumps, logged)), encoding="utf-8")
    assert read_logged(path, exact.language_model, 5)[1].tolist() == [-1.0]


def test_rows_without_a_reward_are_refused_by_line(exact: Task, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = json.dumps({"prompt": "a b", "completion": "c", "reward": 1})
    for bad in ('{"prompt": "a b", "completion": "c"}', '{"prompt": "a b", "completion": "c", "reward": "good"}'):
        path.write_text(f"{good}\n{bad}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r'log.jsonl, line 2: the reward is .*finite number under "reward"'):
            make("ilql", exact, data=str(path))


@pytest.mark.parametrize("name", ["ilql", "mc_returns"])
def test_given_data_it_queries_no_reward_and_finishes(exact: Task, name: str) -> None:
    algorithm = make(name, exact, data=rows(), updates=3, warmup_steps=0)
    rates = []
    while not algorithm.finished:
        rates.append(algorithm.update()["learning_rate"])
    assert len(rates) == 3
    assert rates == pytest.approx([rates[0], 2 / 3 * rates[0], 1 / 3 * rates[0]])
    assert algorithm.envs.meter.reward_queries == 0
    assert algorithm.envs.meter.trained_tokens > 0


@pytest.mark.parametrize("name", ["ilql", "mc_returns"])
def test_without_data_the_reference_plays_and_is_metered(exact: Task, name: str) -> None:
    algorithm = make(name, exact, gradient_steps=1)
    rewards = [algorithm.update()["reward"] for _ in range(8)]
    assert algorithm.envs.meter.reward_queries == 8 * 64
    assert len(algorithm.data.replay) == 8 * 64
    # The reference's rewards have mean 0 and deviation 1, however much was learned: 512 of them average within 4 x .044.
    assert abs(sum(rewards) / 8) < 0.18
    batch = algorithm.data.replay.batch(torch.arange(512))
    assert torch.equal(batch.logprobs_BT, batch.reference_logprobs_BT)


# ---------------------------------------------------------------- the algorithms


@pytest.mark.slow
def test_ilql_learns_and_its_decoding_can_be_swept(exact: Task) -> None:
    algorithm = make("ilql", exact, queries=4_000)
    assert isinstance(algorithm, ILQL)
    for _ in range(20):
        algorithm.update()
    assert exact.enumeration is not None
    figures = [
        exact.enumeration.objective(algorithm.decoded(beta).sequence_logprobs(exact.enumeration))
        for beta in (0.0, 0.5, 1.0, 2.0)
    ]
    assert figures[0]["exact_kl"] == pytest.approx(0, abs=1e-6)
    kls, rewards = [f["exact_kl"] for f in figures], [f["exact_reward"] for f in figures]
    assert kls == sorted(kls)
    assert rewards == sorted(rewards)
    assert rewards[-1] > 0.3
    before = [p.detach().clone() for p in algorithm.target.parameters()]
    algorithm.update()
    assert any(not torch.equal(a, b) for a, b in zip(before, algorithm.target.parameters(), strict=True))


def test_monte_carlo_q_at_the_objectives_strength(exact: Task) -> None:
    algorithm = make("mc_returns", exact)
    assert isinstance(algorithm, MCReturns)
    for _ in range(10):
        algorithm.update()
    assert exact.enumeration is not None
    assert algorithm.contestant() is algorithm.policy
    plain = algorithm.policy.sequence_logprobs(exact.enumeration)
    torch.testing.assert_close(
        algorithm.decoded(1 / 0.3).sequence_logprobs(exact.enumeration), plain, rtol=0, atol=1e-4
    )
    none = exact.enumeration.objective(algorithm.decoded(0.0).sequence_logprobs(exact.enumeration))
    assert none["exact_kl"] == pytest.approx(0, abs=1e-6)
    assert score(algorithm, exact) > 0.15


def test_dqn_and_its_saved_model_are_greedy(exact: Task) -> None:
    algorithm = make("dqn", exact)
    assert isinstance(algorithm, DQN)
    assert algorithm.contestant() is algorithm.policy
    for _ in range(3):
        algorithm.update()
    envs = evaluation_envs(exact, 8)
    ours = algorithm.contestant().generate(envs, generator(1))
    theirs = algorithm.policy.model.sample(envs.prompt_batch, 5, generator(2), temperature=0)
    assert torch.equal(ours.tokens_BT, theirs.tokens_BT)
    # Without randomness KL(pi || ref) is -log ref of the one completion there is.
    expected = -algorithm.policy.reference_logprobs(ours).sum(1)
    statistics = algorithm.contestant().statistics(ours)
    torch.testing.assert_close(statistics["kl"], expected, rtol=1e-4, atol=1e-4)
    assert float(statistics["entropy"].abs().max()) == 0
    assert exact.enumeration is not None
    assert math.isfinite(score(algorithm, exact))


def test_dqn_explores_less_as_the_budget_goes(exact: Task) -> None:
    algorithm = make("dqn", exact, queries=640, epsilon_end=0.2, epsilon_until=0.5)
    assert [round(algorithm.update()["epsilon"], 2) for _ in range(6)] == [1.0, 0.84, 0.68, 0.52, 0.36, 0.2]


def test_dqn_targets_by_hand(exact: Task) -> None:
    """With the target at its start: dueling, max_a Q is the level, 0; so targets are the tokens' own rewards."""
    algorithm = make("dqn", exact)
    rollout = algorithm.collect()
    _, errors, figures = algorithm.loss(rollout, torch.ones(64))
    assert float(figures["value"]) == 0
    completions = rollout.completions
    logits = algorithm.policy.model.head(algorithm.policy.model.completion_hidden(completions)).detach()
    reference = rollout.reference_logprobs_BT
    # Q = beta (logit - largest logit) = beta (log ref - largest log ref).
    action = 0.3 * (logits.log_softmax(-1) - logits.log_softmax(-1).amax(-1, keepdim=True))
    chosen = action.gather(2, completions.tokens_BT[:, : action.shape[1], None])[..., 0]
    last = torch.nn.functional.one_hot(completions.lengths_B - 1, 5)
    expected = ((chosen - 0.3 * reference - last * rollout.scores_B[:, None]) * completions.mask_BT).abs().amax(1)
    torch.testing.assert_close(errors, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"double": False}])
def test_dqn_explains_more_and_more_of_what_it_remembers(exact: Task, settings: dict[str, Any]) -> None:
    # The warm-up leaves the first batch to the untrained values: what later ones are compared with.
    algorithm = make("dqn", exact, queries=1_000, gradient_steps=8, warmup_steps=20, **settings)
    errors = [algorithm.update()["td_error"] for _ in range(8)]
    assert errors[-1] < 0.7 * errors[0]
