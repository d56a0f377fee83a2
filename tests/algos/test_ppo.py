"""PPO's update, step by step on the enumerable task."""

import dataclasses
from typing import Any

import pytest
import torch

from bakeoff.algos.core.build import build, parse_config
from bakeoff.algos.ppo import PPO
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.errors import ConfigError


def make(task: Task, **settings: Any) -> PPO:
    algorithm = build("ppo", settings, task, Budget(reward_queries=2_000), 0)
    assert isinstance(algorithm, PPO)
    return algorithm


def test_the_first_minibatch_has_a_ratio_of_one(exact: Task) -> None:
    metrics = make(exact, epochs=1, minibatches=1).update()
    assert metrics["ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["approximate_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["clip_fraction"] == 0
    assert metrics["kl"] == pytest.approx(0, abs=1e-4)
    assert metrics["epochs"] == 1


def test_the_first_policy_loss_is_minus_the_mean_advantage(exact: Task) -> None:
    # The ratio is 1 everywhere and whitened advantages average 0.
    assert make(exact, epochs=1, minibatches=1).update()["policy_loss"] == pytest.approx(0, abs=1e-5)


def test_the_objective_is_the_score_less_the_price_of_the_kl(exact: Task) -> None:
    algorithm = make(exact)
    for _ in range(3):
        metrics = algorithm.update()
    assert metrics["kl"] > 0
    assert metrics["objective"] == pytest.approx(metrics["reward"] - 0.3 * metrics["kl"], abs=1e-4)


def test_values_start_at_zero_and_learn_to_explain_the_returns(exact: Task) -> None:
    algorithm = make(exact, value_coef=1.0, value_clip=None)
    assert algorithm.update()["explained_variance"] == pytest.approx(0, abs=1e-6)
    for _ in range(15):
        metrics = algorithm.update()
    assert metrics["explained_variance"] > 0.3


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_both_critics_learn(exact: Task, critic: str) -> None:
    algorithm = make(exact, critic=critic)
    before = [p.detach().clone() for p in algorithm.critic.parameters()]
    rewards = [algorithm.update()["reward"] for _ in range(12)]
    after = list(algorithm.critic.parameters())
    assert len(after) == (2 if critic == "shared" else 2 + len(list(exact.language_model.trunk.parameters())))
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    # Rewards have deviation 1, so a mean of 64 has one of 1/8: a rise of 1 is beyond chance.
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 1


def test_phase_two_stops_when_the_policy_has_moved_too_far(exact: Task) -> None:
    assert make(exact, target_kl=1e-9).update()["epochs"] == 1
    assert make(exact, target_kl=1e9).update()["epochs"] == 4


def test_the_kl_coefficient_follows_its_target(exact: Task) -> None:
    near, far = make(exact, adaptive_kl_target=1e-3), make(exact, adaptive_kl_target=1e3)
    for _ in range(6):
        low, high = near.update(), far.update()
    assert low["kl_coef"] > 0.3 > high["kl_coef"]
    # Five steps at the clipped error of -.2.
    assert high["kl_coef"] == pytest.approx(0.3 * (1 - 0.2 * 64 / 10_000) ** 5)


def test_a_kl_coefficient_of_zero_cannot_adapt(exact: Task) -> None:
    with pytest.raises(
        ConfigError, match=r"^settings: kl_coef is 0, and adaptive_kl_target multiplies it.*give kl_coef above 0"
    ):
        parse_config(PPO, {"adaptive_kl_target": 4, "kl_coef": 0})
    parse_config(PPO, {"adaptive_kl_target": 4})  # the task's may be anything
    free = dataclasses.replace(exact, kl_coef=0.0)
    with pytest.raises(
        ConfigError, match=r"^ppo: kl_coef is 0, and adaptive_kl_target multiplies it.*give kl_coef above 0"
    ):
        make(free, adaptive_kl_target=4)
    assert make(free, adaptive_kl_target=4, kl_coef=0.1).kl_coef == 0.1
    assert make(free).kl_coef == 0


def test_an_entropy_bonus_keeps_the_policy_wider(exact: Task) -> None:
    def entropy(coefficient: float) -> float:
        algorithm = make(exact, entropy_coef=coefficient)
        for _ in range(10):
            metrics = algorithm.update()
        return metrics["entropy"]

    assert entropy(1.0) > entropy(0.0) + 0.1


def test_the_meter_counts_what_was_done(exact: Task) -> None:
    algorithm = make(exact, epochs=3)
    metrics = algorithm.update()
    meter = algorithm.envs.meter
    completion_tokens = round(metrics["length"] * 64)
    assert meter.reward_queries == 64
    assert meter.generated_tokens == completion_tokens
    # Policy and critic each read every prompt of two tokens and the completion, three times over.
    assert meter.trained_tokens == 2 * 3 * (64 * 2 + completion_tokens)


def test_the_learning_rate_falls_with_the_budget(exact: Task) -> None:
    algorithm = make(exact, learning_rate=1e-3, warmup_steps=0)
    rates = [algorithm.update()["learning_rate"] for _ in range(4)]
    assert rates == pytest.approx([1e-3 * (1 - 64 * i / 2_000) for i in range(4)])


def test_a_loss_that_is_not_finite_changes_nothing(exact: Task) -> None:
    algorithm = make(exact)
    before = [p.detach().clone() for p in algorithm.policy.parameters()]
    loss = sum(p.sum() for p in algorithm.policy.parameters()) * float("nan")
    loss.backward()
    algorithm.optimizer.start_update(0.0)
    with pytest.raises(FloatingPointError, match="gradient's norm is nan"):
        algorithm.optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, algorithm.policy.parameters(), strict=True))


def test_learning_rate_warmup_limits_the_first_batch(exact: Task) -> None:
    # Adam's first step moves every weight by the rate itself: with three steps of warm-up by a quarter of it.
    algorithm = make(exact, learning_rate=1e-3, warmup_steps=3, learning_rate_schedule="constant")
    algorithm.optimizer.start_update(0.0)
    moves = []
    for _ in range(5):
        before = [p.detach().clone() for p in algorithm.policy.parameters()]
        algorithm.optimizer.zero_grad()
        sum((p * p.sign().detach()).sum() for p in algorithm.policy.parameters()).backward()
        algorithm.optimizer.step()
        moves.append(
            max(float((a - b).detach().abs().max()) for a, b in zip(algorithm.policy.parameters(), before, strict=True))
        )
    assert moves == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3], rel=0.02)
    assert make(exact).update()["approximate_kl"] < 0.5 * make(exact, warmup_steps=0).update()["approximate_kl"]
