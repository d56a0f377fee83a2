"""Soft Q-learning's update on the enumerable task."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bakeoff.algos.core.build import build
from bakeoff.algos.core.rollout import Rollout, collect
from bakeoff.algos.q_learning import QLearning
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task, make_task
from bakeoff.errors import ConfigError

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one prompt at a time": {"group_size": 64, "replay_group": 256},
    "priorities": {"priority_alpha": 0.6},
    "value network": {"value": "network"},
    "value head": {"value": "network", "critic": "shared"},
    "two steps": {"value": "network", "backup": "steps", "steps": 2},
    "all stretches": {"value": "network", "backup": "subtrajectories", "priority_alpha": 0.6},
}


def make(task: Task, queries: int = 2_000, **settings: Any) -> QLearning:
    algorithm = build("q_learning", settings, task, Budget(reward_queries=queries), 0)
    assert isinstance(algorithm, QLearning)
    return algorithm


def fresh(algorithm: QLearning) -> Rollout:
    return collect(algorithm.policy, algorithm.envs, algorithm.rng, group_size=algorithm.config.group_size)


def gradient(algorithm: QLearning, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(algorithm.policy.parameters()))])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns(exact: Task, name: str) -> None:
    """Ten updates, 640 queries: the exact score rises from 0 by far more than the noise of another seed (.03)."""
    algorithm = make(exact, **VARIANTS[name])
    for _ in range(10):
        metrics = algorithm.update()
    assert exact.enumeration is not None
    logprobs = algorithm.contestant().sequence_logprobs(exact.enumeration)
    assert exact.enumeration.objective(logprobs)["normalized_score"] > 0.2
    assert algorithm.contestant() is algorithm.policy
    assert metrics["replay_size"] == 640


def test_on_fresh_samples_its_gradient_is_the_policy_gradient(exact: Task) -> None:
    """d/dtheta of half the variance of score/beta - log(pi/ref) is -(it less its mean) d log pi: REINFORCE with a baseline."""
    algorithm = make(exact, group_size=16)
    batch = fresh(algorithm)
    loss, _, figures = algorithm.loss(batch, torch.ones(64), None)
    ours = gradient(algorithm, loss)
    returns = batch.returns_B(0.3).reshape(-1, 16)
    advantages = (returns - returns.mean(1, keepdim=True)).flatten() / 0.3
    logprobs = algorithm.policy.model.token_logprobs(batch.completions).sum(1)
    theirs = gradient(algorithm, -(advantages * logprobs).mean())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert float(figures["staleness"]) == pytest.approx(0, abs=1e-5)
    # At the start log(pi/ref) is 0: the loss is half the variance of the scores over beta^2.
    variance = float(batch.scores_B.reshape(-1, 16).var(1, unbiased=False).mean())
    assert float(loss.detach()) == pytest.approx(0.5 * variance / 0.09, rel=1e-4)


def test_micro_batches_change_nothing_but_memory(exact: Task) -> None:
    for settings in ({}, {"value": "network"}):
        whole, parts = make(exact, **settings), make(exact, micro_batch_size=10, **settings)
        assert whole.update()["q_loss"] == pytest.approx(parts.update()["q_loss"], rel=1e-3)
        for ours, theirs in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_optimum_does_not_depend_on_the_sampler(exact: Task) -> None:
    """Trained on nothing but the reference's completions it still finds what the objective wants: that is off-policy learning."""
    enumeration = exact.enumeration
    assert enumeration is not None
    algorithm = make(exact, replay_capacity=4096, train_batch_size=512, warmup_steps=0)
    rows = torch.arange(4).repeat(1024)
    completions = enumeration.sample(enumeration.reference_logprobs_QN, rows, torch.Generator().manual_seed(0))
    scores = enumeration.rewards_QN[rows, enumeration.leaf_index(completions)].float()
    reference = algorithm.policy.reference_logprobs(completions)
    algorithm.replay.add(Rollout(completions, scores, reference, reference))
    algorithm.optimizer.start_update(0.0)
    for _ in range(60):
        figures = algorithm.step()
    score = enumeration.objective(algorithm.policy.sequence_logprobs(enumeration))["normalized_score"]
    assert score > 0.6
    assert figures["staleness"] > 1  # it has long left the policy that sampled
    assert algorithm.envs.meter.reward_queries == 0


def test_the_batch_mean_finds_the_best_objective(exact: Task) -> None:
    """V(prompt) is J* at the optimum; on the way its estimate, E[score - beta log(pi/ref)], is below."""
    algorithm = make(exact)
    values = [algorithm.update()["value"] for _ in range(12)]
    assert exact.enumeration is not None
    assert values[0] < values[-1] < exact.enumeration.optimum.objective + 0.2


def test_the_target_follows_the_value_network(exact: Task) -> None:
    algorithm = make(exact, value="network", tau=0.25, gradient_steps=1)
    assert algorithm.critic is not None
    assert algorithm.target is not None
    before = [p.detach().clone() for p in algorithm.target.parameters()]
    algorithm.update()
    for old, new, source in zip(before, algorithm.target.parameters(), algorithm.critic.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old + 0.25 * (source.detach() - old))


def test_the_meter_counts_every_pass_over_the_memory(exact: Task) -> None:
    algorithm = make(exact, gradient_steps=3)
    algorithm.update()
    lengths = algorithm.replay.batch(torch.arange(64)).completions.lengths_B
    meter = algorithm.envs.meter
    assert meter.reward_queries == 64
    assert meter.generated_tokens == int(lengths.sum())
    assert meter.trained_tokens == 3 * int((lengths + 2).sum())  # two prompt tokens


def test_resumes_with_value_network_and_priorities(exact: Task) -> None:
    settings = {"value": "network", "priority_alpha": 0.5}
    whole = make(exact, **settings)
    whole.update()
    state = {key: value for key, value in whole.state_dict().items()}
    copied = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, state)
    totals = whole.envs.meter.snapshot()
    expected = whole.update()
    other = make(exact, **settings)
    other.load_state_dict(copied)
    other.envs.meter.restore(totals)
    assert other.update() == expected


def test_settings_that_make_no_sense_are_refused(exact: Task) -> None:
    with pytest.raises(ConfigError, match=r"kl_coef is 0.*; backup: steps ends stretches in states that need a value"):
        make(exact, kl_coef=0.0, backup="steps")
    with pytest.raises(ConfigError, match="batch_size 64 is not a multiple of group_size 7"):
        make(exact, group_size=7)
    with pytest.raises(ConfigError, match="replay_group of at least 2"):
        make(exact, replay_group=1)


def test_the_frozen_trunk_stays_where_only_the_top_trains() -> None:
    task = make_task("exact")
    algorithm = make(task, trainable="top_layers", top_layers=1, warmup_steps=0)
    metrics = [algorithm.update() for _ in range(4)]
    assert metrics[-1]["q_loss"] < metrics[0]["q_loss"]


@pytest.mark.slow
def test_it_reaches_the_optimum_as_nearly_as_the_project_asks(exact: Task) -> None:
    algorithm = make(exact, queries=8_000)
    while not algorithm.envs.budget.exhausted(algorithm.envs.meter):  # type: ignore[union-attr]
        algorithm.update()
    assert exact.enumeration is not None
    score = exact.enumeration.objective(algorithm.policy.sequence_logprobs(exact.enumeration))["normalized_score"]
    assert score > 0.95
