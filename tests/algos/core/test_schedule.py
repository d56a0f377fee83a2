"""The learning rate is that of the share spent before an update, so each update that is paid for learns."""

from typing import Any

import pytest
import torch

from bakeoff import registry
from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.build import build, why_unavailable
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.schedule import LearningRate, updates_of_passes, warmup_factor
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.errors import UserError

RATE, UPDATES = 1e-3, 4
TRAINED = [name for name in registry.algorithms.names() if name not in ("reference", "best_of_n")]
PAIRS = [
    {"prompt": "a b", "chosen": chosen, "rejected": rejected}
    for chosen, rejected in (("c", "d"), ("d c", "a"), ("b", "c c"), ("a a", "b d"))
]
ROWS = [
    {"prompt": "a b", "completion": pair[side], "reward": float(side == "chosen"), "label": side == "chosen"}
    for pair in PAIRS
    for side in ("chosen", "rejected")
]
GIVEN: dict[str, dict[str, Any]] = {
    "dpo": {"data": PAIRS, "epochs": 6, "train_batch_size": 2, "gradient_steps": 3},
    "kto": {"data": ROWS, "epochs": 3, "train_batch_size": 2, "gradient_steps": 3},
    "ilql": {"data": ROWS, "updates": 4},
    "mc_returns": {"data": ROWS, "updates": 4},
    "sft": {"data": ROWS, "epochs": 1, "batch_size": 2},
}
"""Each makes four updates on given data."""


def make(name: str, task: Task, **settings: Any) -> Algorithm:
    kind: type[Algorithm] = registry.algorithms.load(name)
    missing = why_unavailable(kind)
    if missing:
        pytest.skip(missing)
    size = settings.get("batch_size", kind.Config.model_fields["batch_size"].default)
    own = {"learning_rate": RATE, "warmup_steps": 0}
    budget = Budget(reward_queries=UPDATES * size)
    return build(kind, {**kind.example_settings(task), **own, **settings}, task, budget, seed=0)


def rates_to_the_end(algorithm: Algorithm) -> list[tuple[float, float]]:
    """Stage and logged rate of each update that trains; each of them moves weights, the last one, too."""
    rates = []
    budget = algorithm.envs.budget
    assert budget is not None
    while not (algorithm.finished or budget.exhausted(algorithm.envs.meter)):
        before = [p.detach().clone() for p in algorithm.trained_parameters()]
        trained = algorithm.envs.meter.trained_tokens
        metrics = algorithm.update()
        if algorithm.envs.meter.trained_tokens > trained:
            rates.append((metrics.get("stage", 1.0), metrics["learning_rate"]))
            moved = [not torch.equal(a, b) for a, b in zip(algorithm.trained_parameters(), before, strict=True)]
            assert any(moved), f"update {len(rates)} changed nothing"
    return rates


@pytest.mark.parametrize("name", [name for name in TRAINED if not name.startswith("sb3_")])
def test_update_k_of_n_has_the_share_that_was_left_before_it(name: str, exact: Task) -> None:
    algorithm = make(name, exact)
    found = rates_to_the_end(algorithm)
    assert found
    for stage in {stage for stage, _ in found}:
        rates = [rate for of, rate in found if of == stage]
        count = len(rates)
        assert rates[0] == pytest.approx(RATE)
        for done, rate in enumerate(rates):  # where the last batch of passes is smaller, they end a little sooner
            least = 1 - done / max(1, count - 1)
            assert RATE * least - 1e-12 <= rate <= RATE * (1 - done / count) + 1e-12
    if algorithm.data_source not in (DataSource.DEMONSTRATIONS, DataSource.FEEDBACK):
        assert [rate for _, rate in found] == pytest.approx([RATE * (1 - k / UPDATES) for k in range(UPDATES)])


@pytest.mark.parametrize("name", [name for name in TRAINED if name.startswith("sb3_")])
def test_agents_follow_the_share_before_the_cycle(name: str, exact: Task) -> None:
    settings = {"learning_starts": 16, "minibatch_size": 16} if name == "sb3_dqn" else {}
    algorithm = make(name, exact, batch_size=16, **settings)
    budget = algorithm.envs.budget
    assert budget is not None
    rates, shares = [], []
    while not budget.exhausted(algorithm.envs.meter):
        share = algorithm.envs.progress
        before = [p.detach().clone() for p in algorithm.trained_parameters()]
        metrics = algorithm.update()
        if "learning_rate" not in metrics:  # a cycle before the agent learns, or one that the budget cut
            continue
        rates.append(metrics["learning_rate"])
        shares.append(share)
        assert any(not torch.equal(a, b) for a, b in zip(algorithm.trained_parameters(), before, strict=True))
    assert len(rates) > 1
    assert rates == pytest.approx([RATE * (1 - share) for share in shares])


@pytest.mark.parametrize("name", GIVEN)
def test_passes_over_given_data(name: str, exact: Task) -> None:
    rates = [rate for _, rate in rates_to_the_end(make(name, exact, **GIVEN[name]))]
    assert rates == pytest.approx([RATE, 0.75 * RATE, 0.5 * RATE, 0.25 * RATE])


def test_dpo_learns_from_one_batch_in_one_epoch(exact: Task) -> None:
    ((_, rate),) = rates_to_the_end(make("dpo", exact, data=PAIRS, epochs=1))
    assert rate == pytest.approx(RATE)


def test_the_logged_rate_is_the_one_used_warmup_included(exact: Task) -> None:
    # Steps 1 to 4 of 8 at 1/5 to 4/5 of the rate, the rest at the whole of it.
    settings = {"learning_rate": RATE, "warmup_steps": 4, "epochs": 4, "minibatches": 2}
    algorithm = build("ppo", settings, exact, Budget(reward_queries=100 * 64), seed=0)
    expected = RATE * (0.2 + 0.4 + 0.6 + 0.8 + 4) / 8
    assert algorithm.update()["learning_rate"] == pytest.approx(expected)
    assert algorithm.update()["learning_rate"] == pytest.approx(0.99 * RATE)


def test_a_step_without_an_update_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([weight], AlgorithmConfig(), width=32)
    weight.grad = torch.ones(1)
    with pytest.raises(UserError, match=r"call start_update\(progress\) first thing in update\(\)"):
        optimizer.step()
    assert float(weight.detach()) == 0


def test_warmup_is_at_most_a_tenth_of_the_updates() -> None:
    # One step per update, 20 steps of warm-up: 20 of 24 updates would be warm-up.
    factors = [warmup_factor(k, 20, k, 24, (k - 1) / 24) for k in range(1, 25)]
    assert factors[:5] == pytest.approx([1 / 3.4, 2 / 3.4, 3 / 3.4, 1, 1])
    assert warmup_factor(1, 20, 1, 1, 0.0) == pytest.approx(1 / 1.1)
    # A long run: the steps count, not its tenth.
    assert [warmup_factor(s, 20, s, 1_000, 0.0) for s in (1, 10, 20, 21)] == pytest.approx(
        [1 / 21, 10 / 21, 20 / 21, 1]
    )
    # No plan: a tenth of what is spent.
    assert [warmup_factor(1, 20, 1, None, p) for p in (0.0, 0.05, 0.1, 0.5)] == pytest.approx([1 / 21, 0.5, 1, 1])
    assert warmup_factor(1, 0, 1, None, 0.0) == 1


def test_planned_updates_of_budgets_and_passes() -> None:
    assert Budget(reward_queries=1_100).planned_updates(1_024, 24) == 2
    assert Budget(reward_queries=6_400, generated_tokens=64 * 24 * 10).planned_updates(64, 24) == 10
    assert Budget(generated_tokens=1).planned_updates(64, 24) == 1
    assert Budget(seconds=10, trained_tokens=5).planned_updates(64, 24) is None
    assert Budget().planned_updates(64, 24) is None
    assert updates_of_passes(rows=20, epochs=2, batch_size=16) == 3
    assert updates_of_passes(rows=8, epochs=3, batch_size=64, steps_per_update=4) == 1
    assert updates_of_passes(rows=8, epochs=9, batch_size=64, steps_per_update=4) == 3
    assert updates_of_passes(rows=0, epochs=3, batch_size=64) == 1


@pytest.mark.parametrize("name", GIVEN)
def test_learners_on_given_data_know_how_many_updates_there_are(name: str, exact: Task) -> None:
    algorithm: Any = make(name, exact, **GIVEN[name])
    source = algorithm if name in ("kto", "sft") else algorithm.data
    assert source.planned_updates == 4


def test_a_resumed_warmup_goes_on() -> None:
    config = AlgorithmConfig(warmup_steps=50)
    whole, first, second = (LearningRate(config, 1.0, 30) for _ in range(3))

    def play(schedule: LearningRate, updates: range) -> list[float]:
        rates = []
        for update in updates:
            schedule.start_update(update / 30)
            rates += [schedule.next() for _ in range(2)]
        return rates

    expected = play(whole, range(6))
    found = play(first, range(2))
    second.load_state_dict(first.state_dict())
    assert found + play(second, range(2, 6)) == expected
    assert expected[0] == pytest.approx(0.25)
    assert expected[-1] == pytest.approx(25 / 30)
