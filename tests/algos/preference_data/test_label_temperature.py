"""Tau of the labels: how it is chosen, that labels are right often enough with it, and that runs keep it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bakeoff.algos.core.build import build
from bakeoff.algos.losses.rounding import tied
from bakeoff.algos.preference_data.label_temperature import (
    DETERMINISTIC_BETA,
    RIGHT_SHARE,
    SOFT_SHARE,
    UNMEASURED,
    LabelTemperature,
    measure_temperature,
)
from bakeoff.algos.preference_data.labels import label_pairs
from bakeoff.algos.preference_data.pair_source import sample_labeled_pairs
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task, make_task
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError
from bakeoff.seeding import torch_generator

LEARNERS = ("dpo", "online_dpo", "kto")
PAIRS = [{"prompt": "a b", "chosen": " c d", "rejected": " e"}, {"prompt": "c d", "chosen": " e f", "rejected": " a"}]
JUDGED = [{"prompt": "a b", "completion": "c d", "label": True}, {"prompt": "c d", "completion": "e f", "label": False}]

Draw = Callable[[tuple[int, ...], torch.Generator], Tensor]
REWARDS: dict[str, Draw] = {
    "normal": lambda size, g: torch.empty(size, dtype=torch.float64).normal_(generator=g),
    "uniform": lambda size, g: torch.empty(size, dtype=torch.float64).uniform_(generator=g),
    "exponential": lambda size, g: torch.empty(size, dtype=torch.float64).exponential_(generator=g),
    "log-normal": lambda size, g: torch.empty(size, dtype=torch.float64).log_normal_(generator=g),
    # Student's with two degrees of freedom: a normal over the root of an exponential's value
    "student": lambda size, g: (
        torch.empty(size, dtype=torch.float64).normal_(generator=g)
        / torch.empty(size, dtype=torch.float64).exponential_(generator=g).sqrt()
    ),
}


def make(name: str, task: Task, **settings: Any) -> Any:
    return build(name, settings, task, Budget(reward_queries=2_000), 0)


def constant(task: Task, value: float) -> Task:
    return dataclasses.replace(task, reward=lambda completions, **columns: [value] * len(completions))


# ---------------------------------------------------------------- the measurement


def test_temperature_by_hand() -> None:
    zeros = torch.zeros(3)
    tau = measure_temperature(torch.tensor([1.0, -1.0, 1.0]), zeros, 0.8)
    assert tau == pytest.approx(1 / math.log(4))  # sigmoid(log 4) = .8
    tau = measure_temperature(torch.tensor([1.0, 3.0, 0.0]), zeros, 0.75)  # the tie does not count
    assert tau is not None
    assert (1 / (1 + math.exp(-1 / tau)) + 1 / (1 + math.exp(-3 / tau))) / 2 == pytest.approx(0.75)
    assert measure_temperature(zeros, zeros) is None


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_it_is_of_the_rewards_scale(scale: float) -> None:
    rewards_N2 = REWARDS["normal"]((500, 2), torch.Generator().manual_seed(0))
    base, other = (measure_temperature(*(c * rewards_N2).unbind(1)) for c in (1.0, scale))
    assert base is not None
    assert other == pytest.approx(scale * base)
    share = (rewards_N2.diff(dim=1).abs() / base).sigmoid().mean()
    assert float(share) == pytest.approx(RIGHT_SHARE)


def test_rewards_that_differ_by_rounding_are_tied() -> None:
    """0.1 as a float32 and one rounding step beside it; 12,346 and the next float32. A real difference is none of these."""
    for value in (0.1, 100.1, 12_346.0):
        first = torch.tensor([value])
        after = torch.nextafter(first, torch.tensor([math.inf]))
        assert bool(tied(first, after))
        assert measure_temperature(first, after) is None
        assert not bool(tied(first, first + 0.05))


@pytest.mark.parametrize("kind", REWARDS)
def test_one_batch_is_enough_for_eighty_percent_right(kind: str) -> None:
    """What the constant's docstring says: three standard deviations above .80, at 80 % of a label's largest information."""
    generator = torch.Generator().manual_seed(0)
    all_M = REWARDS[kind]((20_000, 2), generator).diff(dim=1).abs()
    shares = []
    for _ in range(300):
        tau = measure_temperature(*REWARDS[kind]((32, 2), generator).unbind(1))
        shares.append(float((all_M / tau).sigmoid().mean()))
    shares_R = torch.tensor(shares)
    # The standard error of a standard deviation over 300 draws is 4 % of it, .001.
    assert float(shares_R.std()) == pytest.approx(0.026, abs=0.004)
    assert float((shares_R < 0.8).float().mean()) < 0.02

    def information(tau: float) -> float:
        chance_M = (all_M / tau).sigmoid()
        return float(((all_M / tau) ** 2 * chance_M * (1 - chance_M)).mean())

    found = measure_temperature(all_M.flatten(), torch.zeros(len(all_M)))
    assert found is not None
    best = max(information(found * factor) for factor in torch.logspace(-1, 1, 80).tolist())
    assert information(found) > 0.8 * best


@pytest.mark.parametrize("name", ["exact", "reviews"])
def test_four_of_five_labels_are_right_by_default(name: str) -> None:
    """tau from the first 32 pairs, seen from 960 others of the reference. With tau = 1: .72 on `exact`, .61 on `reviews`."""
    task = make_task(name)
    for seed in range(3):
        generator = torch_generator(seed, "pairs")
        envs = TextGenerationVectorEnv.from_task(task, 64, seed=seed)
        tau, rewards = LabelTemperature("auto", "bradley_terry"), []
        for _ in range(31):
            batch = sample_labeled_pairs(task.language_model.sample, envs, generator, "bradley_terry", tau)
            rewards.append(batch.scored.rewards_B.double().reshape(-1, 2))
        first_N, second_N = torch.cat(rewards[1:]).unbind(1)
        difference_N = (first_N - second_N).abs()[~tied(first_N, second_N)]
        share = float((difference_N / tau.value).sigmoid().mean())
        assert 0.8 < share < 0.95
        assert tau.known


# ---------------------------------------------------------------- labels of ties


def test_equal_rewards_are_labeled_one_half() -> None:
    rewards_B2 = torch.tensor([[0.1, 0.1], [100.1, 100.1], [1.0, 0.0]])
    for labels, sure in (("bradley_terry", 1.0), ("deterministic", 1.0), ("soft", 1 / (1 + math.exp(-1)))):
        _, found_B = label_pairs(rewards_B2, labels, 1.0, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        assert found_B.tolist() == pytest.approx([0.5, 0.5, sure])


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("value", [0.0, 0.1, 12_346.0])
def test_a_constant_reward_is_labeled_one_half(name: str, value: float, exact: Task) -> None:
    algorithm = make(name, constant(exact, value), labels="bradley_terry")
    for _ in range(5):
        metrics = algorithm.update()
    assert metrics["label_temperature"] == UNMEASURED
    if name == "dpo":
        assert metrics["label_accuracy"] == 0.5
        assert bool((algorithm.data.buffer.pairs.preference_B == 0.5).all())
        return  # its reference log-probabilities are the sampler's, which differ from the policy's by rounding
    assert exact.enumeration.objective(algorithm.policy.sequence_logprobs(exact.enumeration))["exact_kl"] <= 1e-6


# ---------------------------------------------------------------- in the algorithms


@pytest.mark.parametrize("name", LEARNERS)
def test_beta_follows_from_what_was_measured(name: str, exact: Task) -> None:
    algorithm = make(name, exact)
    rows = [algorithm.update() for _ in range(2)]
    tau = rows[0]["label_temperature"]
    assert tau != UNMEASURED
    assert all(row["label_temperature"] == tau for row in rows)
    assert all(row["beta"] == pytest.approx(exact.kl_coef / tau) for row in rows)
    assert algorithm.envs.meter.reward_queries == 128  # nothing but the batches themselves was paid for


def test_soft_labels_are_measured_to_be_less_sure(exact: Task) -> None:
    algorithm = make("dpo", exact, labels="soft", pairs=256)
    first = make("dpo", exact, labels="soft")
    first.update()
    preference_B, margin_B = first.data.buffer.pairs.preference_B, first.data.buffer.pairs.reward_margin_B
    assert float(preference_B[margin_B > 0].mean()) == pytest.approx(SOFT_SHARE, abs=1e-3)
    algorithm.update()
    assert algorithm.data.temperature.value == first.data.temperature.value  # of the first batch in either case


@pytest.mark.parametrize("name", LEARNERS)
def test_a_resumed_run_keeps_what_was_measured(name: str, exact: Task) -> None:
    first, second = make(name, exact), make(name, exact)
    metrics = first.update()
    second.load_state_dict(first.state_dict())
    for from_, to in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        to.data.copy_(from_.data)
    temperature = second.data.temperature if name == "dpo" else second.temperature
    assert temperature.value == metrics["label_temperature"]
    assert temperature.known
    beta = second.beta if name == "kto" else second.objective.beta
    assert beta == metrics["beta"]


def test_it_is_measured_where_rewards_first_differ(exact: Task) -> None:
    algorithm = make("dpo", exact)
    envs, play = algorithm.envs, algorithm.envs.play

    def flat(completions: Any) -> Any:
        scored = play(completions)
        return dataclasses.replace(scored, rewards_B=torch.full_like(scored.rewards_B, 0.3))

    envs.play = flat
    assert algorithm.update()["label_temperature"] == UNMEASURED
    again = make("dpo", exact)
    again.load_state_dict(algorithm.state_dict())
    assert not again.data.temperature.known
    again.update()
    assert again.data.temperature.known


def test_given_data_need_none(exact: Task) -> None:
    for name, data in (("dpo", PAIRS), ("kto", JUDGED)):
        metrics = make(name, exact, data=data).update()
        assert metrics["beta"] == exact.kl_coef
        assert "label_temperature" not in metrics


@pytest.mark.parametrize("name", LEARNERS)
def test_deterministic_labels_have_a_beta_of_their_own(name: str, exact: Task) -> None:
    metrics = make(name, exact, labels="deterministic", kl_coef=5.0).update()
    assert metrics["beta"] == DETERMINISTIC_BETA
    assert "label_temperature" not in metrics
    assert make(name, exact, labels="deterministic", beta=0.7).update()["beta"] == 0.7
    with pytest.raises(ConfigError, match='has no temperature; leave out "label_temperature" and set "beta"'):
        make(name, exact, labels="deterministic", label_temperature=1.0)


@pytest.mark.parametrize("value", [0, -1.0, "warm", math.inf])
def test_a_temperature_that_cannot_be_is_one_line(value: Any, exact: Task) -> None:
    with pytest.raises(ConfigError) as caught:
        make("dpo", exact, label_temperature=value)
    assert "label_temperature" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_temperature_is_kept(exact: Task) -> None:
    row = make("dpo", exact, label_temperature=2.0).update()
    assert (row["label_temperature"], row["beta"]) == (2.0, pytest.approx(exact.kl_coef / 2))
