"""DPO and its family as algorithms: labels, data, the meter, what is learned from."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build
from bakeoff.algos.core.rollout import collect
from bakeoff.algos.dpo import DPO
from bakeoff.algos.kto import KTO
from bakeoff.algos.losses.preference import preference_loss
from bakeoff.algos.online_dpo import OnlineDPO
from bakeoff.algos.preference_data.judgments import judge
from bakeoff.algos.preference_data.labels import label_pairs
from bakeoff.algos.preference_data.pairs import TokenizedPairs
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.errors import ConfigError, UserError

PAIRS = [
    {"prompt": "a b", "chosen": " c d", "rejected": " e", "margin": 0.5},
    {"prompt": "c d", "chosen": " e f g a b c", "rejected": " a", "margin": 1.0},
    {"prompt": "a b", "chosen": " c", "rejected": " g g g"},
]
JUDGED = [
    {"prompt": "a b", "completion": "c d", "label": True},
    {"prompt": "c d", "completion": "e f", "label": False},
    {"prompt": "e f", "completion": "g", "label": True},
]


def make(name: str, task: Task, queries: int = 1_000, **settings: Any) -> Any:
    return build(name, settings, task, Budget(reward_queries=queries), 0)


def spent(algorithm: Algorithm) -> int:
    return algorithm.envs.meter.reward_queries


# ---------------------------------------------------------------- labels


def test_labels_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0]])
    generator = torch.Generator().manual_seed(0)
    side, sure = label_pairs(rewards, "deterministic", 0.5, generator)
    assert side[:2].tolist() == [0, 1]
    assert sure.tolist() == [1, 1, 0.5]  # equal rewards have no better side
    side, sure = label_pairs(rewards, "soft", 0.5, generator)
    assert side[:2].tolist() == [0, 1]
    assert sure.tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-6)), 0.5])


def test_labels_and_ties_have_the_right_frequencies() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.tensor([1.0, 0.0]).expand(20_000, 2)
    side, sure = label_pairs(rewards, "bradley_terry", 2.0, generator)
    assert float((side == 0).float().mean()) == pytest.approx(1 / (1 + math.exp(-0.5)), abs=0.02)
    assert bool((sure == 1).all())
    side, _ = label_pairs(torch.zeros(20_000, 2), "deterministic", 1.0, generator)
    assert float(side.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_judgments_by_hand() -> None:
    rewards, generator = torch.tensor([1.0, 3.0, 2.0]), torch.Generator().manual_seed(0)
    assert judge(rewards, 2.0, "deterministic", 1.0, generator).tolist() == [0, 1, 0.5]
    expected = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2)), 0.5]
    assert judge(rewards, 2.0, "soft", 0.5, generator).tolist() == pytest.approx(expected)
    drawn = judge(torch.full((20_000,), 3.0), 2.0, "bradley_terry", 0.5, generator)
    assert float(drawn.mean()) == pytest.approx(expected[1], abs=0.02)


def test_bradley_terry_labels_imply_the_tasks_own_optimum(exact: Task) -> None:
    """beta = kl_coef / tau: at pi* the expected loss of every pair of completions is stationary, for any tau."""
    enumeration = exact.enumeration
    rows = torch.randint(0, enumeration.rewards_QN.shape[1], (2, 200), generator=torch.Generator().manual_seed(0))
    rewards, theirs = enumeration.rewards_QN[0][rows], enumeration.reference_logprobs_QN[0][rows]
    for tau in (0.5, 1.0, 3.0):
        beta = make("dpo", exact, label_temperature=tau).objective.beta
        assert beta == pytest.approx(exact.kl_coef / tau)
        ours = enumeration.optimal_logprobs_QN[0][rows].clone().requires_grad_()
        chance = ((rewards[0] - rewards[1]) / tau).sigmoid()
        preference_loss(*ours, *theirs, beta=beta, preference=chance).losses_B.sum().backward()
        assert float(ours.grad.abs().max()) < 1e-9
        preference_loss(*ours, *theirs, beta=2 * beta, preference=chance).losses_B.sum().backward()
        assert float(ours.grad.abs().max()) > 1e-3


# ---------------------------------------------------------------- dpo's data


def test_growing_pairs_cost_two_queries_each(exact: Task) -> None:
    algorithm = make("dpo", exact, batch_size=16)
    sizes = [algorithm.update()["data_size"] for _ in range(3)]
    assert sizes == [8, 16, 24]
    assert spent(algorithm) == 48
    assert not algorithm.finished
    pairs = algorithm.data.buffer.pairs
    assert torch.equal(pairs.chosen.prompts.indices_B, pairs.rejected.prompts.indices_B)
    rewards = [exact.reward(  # the margin is the difference of the rewards of these very completions
        prompts=[exact.prompts.train[i] for i in side.prompts.indices_B.tolist()],
        completions=exact.language_model.decode(side.tokens_BT, side.mask_BT),
        completion_ids=[t[m].tolist() for t, m in zip(side.tokens_BT, side.mask_BT, strict=True)],
        prompt_index=side.prompts.indices_B.tolist(),
    ) for side in (pairs.chosen, pairs.rejected)]  # fmt: skip
    difference = torch.tensor(rewards[0]) - torch.tensor(rewards[1])
    torch.testing.assert_close(pairs.reward_margin_B, difference.float(), atol=1e-5, rtol=1e-5)
    read = TokenizedPairs.with_reference(algorithm.policy, pairs.chosen, pairs.rejected).reference_logps_B2
    torch.testing.assert_close(pairs.reference_logps_B2, read, atol=1e-5, rtol=1e-5)


def test_pairs_made_before_training_need_no_more_queries(exact: Task) -> None:
    algorithm = make(
        "dpo", exact, batch_size=16, pairs=20, epochs=2, train_batch_size=16, gradient_steps=1, warmup_steps=0
    )
    metrics = [algorithm.update()]
    assert (metrics[0]["data_size"], spent(algorithm)) == (20, 40)
    while not algorithm.finished:
        metrics.append(algorithm.update())
    assert len(metrics) == 3  # 16 + 16 + 8 of 2 x 20
    assert spent(algorithm) == 40
    assert metrics[-1]["learning_rate"] == pytest.approx(metrics[0]["learning_rate"] * 8 / 40)


def test_capacity_forgets_the_oldest(exact: Task) -> None:
    algorithm = make("dpo", exact, batch_size=16, capacity=8)
    assert [algorithm.update()["data_size"] for _ in range(2)] == [8, 8]


@pytest.mark.parametrize("as_file", [False, True])
def test_given_pairs_ask_no_reward(as_file: bool, exact: Task, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in PAIRS), encoding="utf-8")
    algorithm = make("dpo", exact, data=str(path) if as_file else PAIRS, epochs=2, gradient_steps=1, train_batch_size=2)
    assert isinstance(algorithm, DPO)
    metrics = []
    while not algorithm.finished:
        metrics.append(algorithm.update())
    assert len(metrics) == 3
    assert (spent(algorithm), algorithm.envs.meter.generated_tokens) == (0, 0)
    assert algorithm.envs.meter.trained_tokens > 0
    assert metrics[0]["cut_share"] == pytest.approx(1 / 6)  # one of six completions is longer than five tokens
    margin = algorithm.data.buffer.pairs.reward_margin_B
    assert margin[:2].tolist() == [0.5, 1.0]
    assert math.isnan(margin[2])


def test_given_pairs_are_learned(exact: Task) -> None:
    algorithm = make("dpo", exact, data=PAIRS, epochs=40, gradient_steps=120, learning_rate_schedule="constant")
    last = algorithm.update()
    assert last["accuracy"] > 0.9
    assert last["chosen_reward"] > last["rejected_reward"]


def test_a_supervised_term_holds_the_chosen_ones_up(exact: Task) -> None:
    settings = {"data": PAIRS, "epochs": 40, "gradient_steps": 120, "learning_rate_schedule": "constant"}
    plain, held = (make("dpo", exact, supervised_coef=c, **settings) for c in (0.0, 1.0))
    for algorithm in (plain, held):
        algorithm.update()
    chosen = plain.data.buffer.pairs.chosen
    sums = [a.policy.model.token_logprobs(chosen).sum().detach() for a in (plain, held)]
    assert sums[1] > sums[0]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dpo", {"pairs": 500}, "pairs 500 cost 1000 reward queries, and the budget of 1000 ends there"),
        ("dpo", {"pairs": 5, "data": PAIRS}, "leave one of them out"),
        ("dpo", {"batch_size": 15}, "batch_size 15 is not a multiple"),
        ("dpo", {"kl_coef": 0.0}, 'dpo: kl_coef is 0, so the loss has no finite optimum; give "beta"'),
        ("dpo", {"loss_type": "exo"}, "exo is infinite for certain labels"),
        ("dpo", {"loss_type": "sppo", "target_margin": 1.0}, 'leave out "target_margin"'),
        ("dpo", {"data": "nowhere.jsonl"}, "nowhere.jsonl"),
        ("dpo", {"max_completion_tokens": 4}, '"max_completion_tokens" belongs to "data"'),
        ("online_dpo", {"group_size": 3}, "online_dpo: batch_size 64 is not a multiple of group_size 3"),
        ("kto", {"kl_coef": 0.0}, 'kto: kl_coef is 0, so the loss is constant; give "beta"'),
        ("kto", {"data": [{"prompt": "a b", "completion": "c", "label": 1}]}, "give true (good) or false (bad)"),
    ],
)
def test_settings_that_cannot_work_are_named(name: str, settings: dict[str, Any], message: str, exact: Task) -> None:
    with pytest.raises(UserError) as caught:
        make(name, exact, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ConfigError) or name == "dpo"


def test_simpo_is_dpo_without_a_reference(exact: Task) -> None:
    objective = make("simpo", exact).objective
    assert (objective.beta, objective.target_margin) == (2.0, 1.0)
    assert objective.reference_free
    assert objective.length_normalization


# ---------------------------------------------------------------- online


def test_all_pairs_of_a_group_are_labeled_the_better_first(exact: Task) -> None:
    algorithm = make("online_dpo", exact, batch_size=12, group_size=3)
    assert isinstance(algorithm, OnlineDPO)
    rollout = collect(algorithm.policy, algorithm.envs, algorithm.rng, group_size=3)
    labeled = algorithm.label(rollout)
    assert tuple(labeled.rows_GK2.shape) == (4, 3, 2)
    for group in range(4):
        assert sorted(sorted(pair) for pair in labeled.rows_GK2[group].tolist()) == [[0, 1], [0, 2], [1, 2]]
        scores = rollout.scores_B[3 * group : 3 * group + 3]
        difference = scores[labeled.rows_GK2[group][:, 0]] - scores[labeled.rows_GK2[group][:, 1]]
        assert bool((difference >= 0).all())
        chances = (difference / algorithm.temperature.value).sigmoid()
        torch.testing.assert_close(labeled.preference_GK[group], chances.float())


def test_online_loss_is_the_mean_over_pairs(exact: Task) -> None:
    algorithm = make("online_dpo", exact, batch_size=12, group_size=3)
    rollout = collect(algorithm.policy, algorithm.envs, algorithm.rng, group_size=3)
    labeled = algorithm.label(rollout)
    with torch.no_grad():
        for parameter in algorithm.policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    groups = torch.arange(4)
    loss, logs = algorithm.loss(rollout, labeled, groups)
    each = torch.stack([algorithm.loss(rollout, labeled, groups[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(loss, each.mean(), atol=1e-6, rtol=1e-5)
    ours = algorithm.policy.model.token_logprobs(rollout.completions).sum(1)
    h = ours - rollout.reference_logprobs_BT.sum(1)
    expected, tau = [], algorithm.temperature.value
    for group in range(4):
        for first, second in ((0, 1), (0, 2), (1, 2)):
            i, j = 3 * group + first, 3 * group + second
            p = float(((rollout.scores_B[i] - rollout.scores_B[j]) / tau).sigmoid())
            margin = 0.3 / tau * float((h[i] - h[j]).detach())
            expected.append(p * math.log1p(math.exp(-margin)) + (1 - p) * math.log1p(math.exp(margin)))
    assert float(loss.detach()) == pytest.approx(sum(expected) / 12, rel=1e-5)
    assert set(logs) >= {"margin", "accuracy", "chosen_logps", "rejected_logps"}


# ---------------------------------------------------------------- kto


def test_kto_from_given_judgments(exact: Task) -> None:
    algorithm = make("kto", exact, data=JUDGED, epochs=30, gradient_steps=30, learning_rate_schedule="constant")
    assert isinstance(algorithm, KTO)
    metrics = algorithm.update()
    assert spent(algorithm) == 0
    assert metrics["accuracy"] > 0.6
    rows = algorithm.buffer.rows
    ratio = algorithm.policy.model.token_logprobs(rows.completions).sum(1).detach() - rows.reference_logps_B
    assert ratio[0] > 0 > ratio[1]
    while not algorithm.finished:
        algorithm.update()
    assert algorithm.seen == 90


def test_kto_queries_and_reference_point(exact: Task) -> None:
    algorithm = make("kto", exact, batch_size=16)
    metrics = algorithm.update()
    assert (spent(algorithm), metrics["data_size"]) == (16, 16)
    assert metrics["reference_point"] >= 0
    with torch.no_grad():  # by hand, once the policy has moved: each completion after the next one's prompt
        batch = algorithm.buffer.rows.select(torch.arange(4))
        sums = []
        for i in range(4):
            prompt = batch.completions.prompts.select([(i + 1) % 4])
            one = type(batch.completions)(prompt, batch.completions.tokens_BT[[i]], batch.completions.mask_BT[[i]])
            policy = algorithm.policy
            sums.append(float((policy.model.token_logprobs(one) - policy.reference_logprobs(one)).sum()))
    assert algorithm.reference_point(batch) == pytest.approx(algorithm.beta * max(0.0, sum(sums) / 4), abs=1e-5)


# ---------------------------------------------------------------- how well


@pytest.mark.slow
def test_online_dpo_reaches_what_was_measured(exact: Task) -> None:
    algorithm = make("online_dpo", exact, queries=10_000)
    while not algorithm.envs.budget.exhausted(algorithm.envs.meter):
        algorithm.update()
    logprobs = algorithm.policy.sequence_logprobs(exact.enumeration)
    assert exact.enumeration.objective(logprobs)["normalized_score"] > 0.85
