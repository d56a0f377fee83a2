"""Equal rewards teach nothing, whatever their value, and a constant that is added to all rewards changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bakeoff import registry
from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build
from bakeoff.algos.core.rollout import collect
from bakeoff.algos.losses.rounding import relative_scores, scores_from, without_rounding
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task, make_task

ONLINE = ("ppo", "grpo", "rloo", "reinforce", "online_dpo", "q_learning")
NEEDS_KL = ("online_dpo", "q_learning")
CONSTANTS = (0.0, 0.1, 1.0, 100.1, 12_346.0)
RARE = 7
"""The sparse reward is 1 where the completion's tokens sum to a multiple of this and are few: a few completions in a hundred."""


def with_reward(task: Task, reward: Callable[..., list[float]]) -> Task:
    return dataclasses.replace(task, reward=reward)


def constant(value: float) -> Callable[..., list[float]]:
    def reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        return [value] * len(completions)

    return reward


def sparse(offset: float) -> Callable[..., list[float]]:
    def reward(completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        return [offset + float(sum(ids) % RARE == 0 and len(ids) < 4) for ids in completion_ids]

    return reward


def in_precision(task: Task, dtype: torch.dtype) -> Task:
    """The task with its language model in another precision; the exact figures are then those of that model."""
    model = task.language_model.copy()
    return dataclasses.replace(
        task, language_model=LanguageModel(model.module.to(dtype), model.tokenizer, name=model.name)
    )


def played(name: str, task: Task, updates: int, **settings: Any) -> tuple[Algorithm, list[dict[str, float]]]:
    kind = registry.algorithms.load(name)
    algorithm = build(kind, settings, task, Budget(reward_queries=64 * updates), 0)
    rows = [dict(algorithm.update()) for _ in range(updates)]
    return algorithm, rows


def exact_kl(algorithm: Algorithm, task: Task) -> float:
    """Nats from the reference that the task was enumerated with."""
    assert task.enumeration is not None
    with algorithm.envs.meter.pause(), torch.no_grad():
        logprobs_QN = algorithm.contestant().sequence_logprobs(task.enumeration)
    return float(task.enumeration.objective(logprobs_QN)["exact_kl"])


def distance(algorithm: Algorithm, before: Sequence[torch.Tensor]) -> float:
    """How far the weights are from what they were, in the largest of them."""
    pairs = zip(algorithm.policy.parameters(), before, strict=True)
    return max(float((now.detach().double() - old.double()).abs().max()) for now, old in pairs)


# ---------------------------------------------------------------- what is rounding


def test_scores_are_centered_by_group_in_float64() -> None:
    scores = torch.tensor([1.0, 3.0, 100.1, 102.1], dtype=torch.float64)
    relative, means = relative_scores(scores, 2)
    torch.testing.assert_close(relative, torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(means, torch.tensor([2.0, 2.0, 101.1, 101.1], dtype=torch.float64))


@pytest.mark.parametrize("value", CONSTANTS)
def test_equal_scores_are_exactly_zero(value: float) -> None:
    for scores in (torch.full((8,), value), torch.full((8,), value, dtype=torch.float64)):
        assert torch.equal(relative_scores(scores)[0], torch.zeros(8, dtype=torch.float64))
    # .1 as float32 is .1 + 1.5e-9, and as float64 .1: the same number to a reward model.
    assert torch.equal(scores_from(value, torch.full((8,), value)), torch.zeros(8, dtype=torch.float64))


def test_a_step_of_float32_is_rounding() -> None:
    one_step = torch.tensor([100.1, torch.nextafter(torch.tensor(100.1), torch.tensor(200.0))])
    assert torch.equal(relative_scores(one_step)[0], torch.zeros(2, dtype=torch.float64))
    assert float(relative_scores(torch.tensor([100.1, 100.101]))[0].abs().min()) > 4e-4


def test_rounding_goes_and_the_gradient_stays() -> None:
    reference = torch.tensor([-20.0, -20.0])
    logps = torch.tensor([-20.00001, -20.1], requires_grad=True)
    cleaned = without_rounding(logps, reference)
    assert cleaned.tolist() == pytest.approx([-20.0, -20.1], abs=1e-6)
    assert cleaned.tolist()[0] == -20.0
    cleaned.sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [1.0, 1.0]


# ---------------------------------------------------------------- the algorithms


@pytest.mark.parametrize("name", ONLINE)
def test_a_constant_added_changes_nothing(name: str, exact: Task) -> None:
    settings = {"kl_coef": 0.05}
    plain, rows = played(name, with_reward(exact, sparse(0.0)), 6, **settings)
    shifted, others = played(name, with_reward(exact, sparse(100.1)), 6, **settings)
    assert any(0 < row["reward"] < 1 for row in rows)
    for row, other in zip(rows, others, strict=True):
        assert other["reward"] == pytest.approx(row["reward"] + 100.1)
        assert other["kl"] == pytest.approx(row["kl"], abs=1e-4)
    assert distance(shifted, [p.detach() for p in plain.policy.parameters()]) < 1e-4


@pytest.mark.parametrize("name", ["ppo", "q_learning"])
def test_a_value_network_need_not_learn_the_reward_s_mean(name: str, exact: Task) -> None:
    settings = {"kl_coef": 0.05, **({"value": "network"} if name == "q_learning" else {})}
    kind = registry.algorithms.load(name)
    algorithm = build(kind, settings, with_reward(exact, constant(100.1)), Budget(reward_queries=640), 0)
    before = [p.detach().clone() for p in algorithm.policy.parameters()]
    for _ in range(3):
        algorithm.update()
    assert distance(algorithm, before) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_ratio_1_before_a_step(dtype: torch.dtype, exact: Task) -> None:
    # Rows of their own, in parts of any size, against the whole batch.
    task = in_precision(exact, dtype)
    algorithm = build(registry.algorithms.load("rloo"), {}, task, Budget(reward_queries=64), 0)
    rollout = collect(algorithm.policy, algorithm.envs, algorithm.rng, group_size=8)
    assert float(rollout.log_ratios_B.abs().max()) <= 1e-3
    for size in (1, 3, 32):
        parts = torch.split(torch.randperm(64, generator=algorithm.rng), size)
        for rows in parts:
            again = algorithm.policy.model.token_outputs(rollout.completions.select(rows), entropy_gradient=False)[0]
            assert float((again.detach() - rollout.logprobs_BT[rows]).sum(1).abs().max()) <= 1e-3
    gap = rollout.metrics(0.3)["sampler_gap"]
    assert gap > 0  # which the sampler's own log-probabilities are off by


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kl_coef", [0.0, 0.05])
@pytest.mark.parametrize("value", CONSTANTS)
@pytest.mark.parametrize("name", [*ONLINE, "trl_grpo", "trl_rloo"])
def test_fifty_updates_without_a_signal(
    name: str, value: float, kl_coef: float, dtype: torch.dtype, exact: Task
) -> None:
    if kl_coef == 0 and name in NEEDS_KL:
        pytest.skip("refuses kl_coef 0")
    if name.startswith("trl"):
        pytest.importorskip("trl")
        if dtype is not torch.float32:
            pytest.skip("TRL's trainers are tried in float32")
    settings = {"kl_coef": kl_coef, "batch_size": 16, **({"train_batch_size": 32} if name == "q_learning" else {})}
    task = with_reward(exact if dtype is torch.float32 else in_precision(exact, dtype), constant(value))
    algorithm = build(registry.algorithms.load(name), settings, task, Budget(reward_queries=16 * 50), 0)
    start = exact_kl(algorithm, task)
    for _ in range(50):
        algorithm.update()
    assert abs(exact_kl(algorithm, task) - start) <= (1e-6 if dtype is torch.float32 else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONLINE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_model_stays_where_it_is(name: str, dtype: str, stories_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    lines = ["Once upon a time", "The dog ran", "Lily and Tom went to the park to", "A big", "One day"]
    prompts.write_text("\n".join(lines), encoding="utf-8")
    task = make_task(
        "custom", model=str(stories_folder), dtype=dtype, prompts=str(prompts), reward=constant(0.1),
        max_new_tokens=24, kl_coef=0.05,
    )  # fmt: skip
    algorithm = build(registry.algorithms.load(name), {}, task, Budget(reward_queries=256), 0)
    before = [p.detach().clone() for p in algorithm.policy.parameters()]
    for _ in range(4):
        row = algorithm.update()
        assert abs(row.get("effective_sample_size", 1.0) - 1) <= 1e-3
    assert distance(algorithm, before) == 0
