"""TRL's trainers as contestants: what they compute is checked against what is worked out here."""

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bakeoff.algos.core.build import build
from bakeoff.algos.losses.kl import k3, k3_ratio
from bakeoff.algos.losses.policy_gradient import completion_average
from bakeoff.algos.trl.dpo import TRLDPO, labeled
from bakeoff.algos.trl.online import TRLGRPO, TRLRLOO
from bakeoff.benchmarks.spec.reader import SuiteError
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.episodes import ScoredCompletions
from bakeoff.errors import ConfigError

needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs TRL")
BUDGET = Budget(reward_queries=640)
MODEL = Path(__file__).parents[3] / "envs" / "tasks" / "exact" / "model"


def make(kind: type, task: Task, **settings: Any) -> Any:
    return build(kind, {"batch_size": 16, "warmup_steps": 0, **settings}, task, BUDGET, 0)


def watched(algorithm: Any) -> list[ScoredCompletions]:
    """Every batch that the algorithm will play."""
    played: list[ScoredCompletions] = []
    play = algorithm.envs.play

    def record(completions: Any) -> ScoredCompletions:
        played.append(play(completions))
        return played[-1]

    algorithm.envs.play = record
    return played


def gradients_of_the_next_step(algorithm: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def keep() -> None:
        found.extend(p.grad.clone() for p in algorithm.policy.parameters())
        for parameter in algorithm.policy.parameters():
            parameter.grad = None

    algorithm.optimizer.step = keep
    algorithm.update()
    return found


def test_without_trl_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, exact: Task) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    suite = {"name": "x", "tasks": ["exact"], "algorithms": ["trl_grpo"], "seeds": 1, "budget": {"reward_queries": 1}}
    with pytest.raises(SuiteError, match=r'algorithm "trl_grpo": needs TRL, .* pip install "bakeoff\[trl\]"'):
        load_suite(suite)


def test_labels_by_hand() -> None:
    scores = torch.tensor([1.0, 2.0, 5.0, 5.0, 3.0, 0.0])
    assert labeled(scores, "deterministic", 1.0, torch.Generator()).tolist() == [[1, 0], [4, 5]]
    sure = torch.tensor([50.0, 0.0, 0.0, 50.0])
    assert labeled(sure, "bradley_terry", 1.0, torch.Generator().manual_seed(0)).tolist() == [[0, 1], [3, 2]]
    many = torch.tensor([1.0, 0.0]).repeat(20_000)
    first = labeled(many, "bradley_terry", 1.0, torch.Generator().manual_seed(0))[:, 0] % 2 == 0
    # sigmoid(1) = 0.7311; the standard error of the share is 0.0031
    assert float(first.double().mean()) == pytest.approx(0.7311, abs=0.0125)


@needs_trl
def test_rloos_gradient_is_that_of_the_leave_one_out_estimator(exact: Task) -> None:
    algorithm = make(TRLRLOO, exact, group_size=4, max_grad_norm=1e9)
    played = watched(algorithm)
    found = gradients_of_the_next_step(algorithm)
    (batch,) = played
    # The policy is still the reference, so the returns are the rewards.
    groups = batch.rewards_B.reshape(-1, 4)
    advantages_B = (groups - (groups.sum(1, keepdim=True) - groups) / 3).flatten()
    logprobs_B = algorithm.policy.model.token_logprobs(batch.completions).sum(1)
    expected = torch.autograd.grad(-(advantages_B * logprobs_B).mean(), list(algorithm.policy.parameters()))
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-6)


@needs_trl
def test_grpos_gradient_is_that_of_group_advantages(exact: Task) -> None:
    algorithm = make(TRLGRPO, exact, group_size=4, loss_type="grpo", max_grad_norm=1e9)
    played = watched(algorithm)
    found = gradients_of_the_next_step(algorithm)
    (batch,) = played
    groups = batch.rewards_B.reshape(-1, 4)
    advantages_B = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
    logprobs_BT, mask_BT = algorithm.policy.model.token_logprobs(batch.completions), batch.completions.mask_BT
    means_B = (logprobs_BT * mask_BT).sum(1) / mask_BT.sum(1)
    # At the reference the gradient of the KL penalty is 0.
    expected = torch.autograd.grad(-(advantages_B * means_B).mean(), list(algorithm.policy.parameters()))
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-6)


@needs_trl
@pytest.mark.parametrize("ratio", [True, False])
def test_grpos_kl_penalty_is_ours(ratio: bool, exact: Task) -> None:
    """Value and gradient in TRL's own loss, off policy and away from the reference, in float64."""
    algorithm = make(TRLGRPO, exact, group_size=4, loss_type="grpo", use_bias_correction_kl=ratio)
    trainer, generator = algorithm.trainer, torch.Generator().manual_seed(0)
    logprobs_BT, old_BT, reference_BT = -2 * torch.rand(3, 6, 5, generator=generator, dtype=torch.float64)
    logprobs_BT.requires_grad_()
    mask_BT = (torch.arange(5) < torch.tensor([5, 1, 3, 4, 2, 5])[:, None]).long()
    trainer._get_per_token_logps_and_entropies = lambda *args, **rest: (logprobs_BT, torch.zeros(6, 5), None)
    trainer.current_gradient_accumulation_steps = 1
    inputs = {
        "prompt_ids": torch.zeros(6, 1, dtype=torch.long), "prompt_mask": torch.ones(6, 1, dtype=torch.long),
        "completion_ids": torch.zeros(6, 5, dtype=torch.long), "completion_mask": mask_BT,
        "advantages": torch.zeros(6, dtype=torch.float64), "old_per_token_logps": old_BT,
        "ref_per_token_logps": reference_BT,
    }  # fmt: skip
    theirs = trainer._compute_loss(trainer.model, inputs)
    (their_gradient,) = torch.autograd.grad(theirs, logprobs_BT)
    penalty_BT = k3_ratio(logprobs_BT, old_BT, reference_BT) if ratio else k3(logprobs_BT, reference_BT)
    ours = algorithm.kl_coef * completion_average(penalty_BT, mask_BT.bool(), by="completion", limit=5)
    (our_gradient,) = torch.autograd.grad(ours, logprobs_BT)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=1e-6)
    assert float(ours.detach()) > 0.01


@needs_trl
def test_first_dpo_loss_and_gradient(exact: Task) -> None:
    algorithm = make(TRLDPO, exact, gradient_steps=1, pairs_per_step=8, max_grad_norm=1e9)
    found: list[torch.Tensor] = []
    algorithm.optimizer.step = lambda: found.extend(p.grad.clone() for p in algorithm.policy.parameters())
    metrics = algorithm.update()
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["margin"] == pytest.approx(0, abs=1e-5)
    batch = algorithm.buffer.batch(torch.arange(16)).completions
    logprobs_P2 = algorithm.policy.model.token_logprobs(batch).sum(1).reshape(-1, 2)
    # d/dx of -log sigmoid(beta x) at 0 is -beta / 2
    loss = -algorithm.beta / 2 * (logprobs_P2[:, 0] - logprobs_P2[:, 1]).mean()
    expected = torch.autograd.grad(loss, list(algorithm.policy.parameters()))
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-6)


@needs_trl
def test_dpos_beta_follows_from_the_labels_temperature(exact: Task) -> None:
    algorithm = make(TRLDPO, exact, gradient_steps=1, pairs_per_step=8)
    metrics = algorithm.update()
    assert metrics["label_temperature"] == algorithm.temperature.value
    assert metrics["beta"] == pytest.approx(exact.kl_coef / metrics["label_temperature"])
    again = make(TRLDPO, exact, gradient_steps=1, pairs_per_step=8)
    again.load_state_dict(algorithm.state_dict())
    assert again.update()["beta"] == algorithm.update()["beta"] == metrics["beta"]
    assert algorithm.trainer.beta == again.trainer.beta == metrics["beta"]
    certain = make(TRLDPO, exact, labels="deterministic", gradient_steps=1, pairs_per_step=8)
    metrics = certain.update()
    assert (certain.trainer.beta, metrics["beta"]) == (0.1, 0.1)
    assert "label_temperature" not in metrics


@needs_trl
@pytest.mark.parametrize("kind", [TRLGRPO, TRLRLOO, TRLDPO])
def test_a_step_in_parts_is_the_step(kind: type, exact: Task) -> None:
    settings = {"pairs_per_step": 8, "gradient_steps": 1} if kind is TRLDPO else {}
    found = []
    for size in (None, 4):
        algorithm = make(kind, exact, micro_batch_size=size, **settings)
        found.append((algorithm.update()["grad_norm"], gradients_of_the_next_step(algorithm)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)


@needs_trl
@pytest.mark.parametrize("kind", [TRLGRPO, TRLRLOO, TRLDPO])
def test_nothing_is_sent_and_the_task_stays_as_it_is(kind: type, exact: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import base_trainer

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a message home")

    monkeypatch.setattr(base_trainer, "send_telemetry", fail)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    pad, random = exact.language_model.tokenizer.pad_token, torch.get_rng_state()
    make(kind, exact).update()
    assert "forward" not in vars(exact.language_model.module)
    assert exact.language_model.tokenizer.pad_token == pad
    assert torch.equal(torch.get_rng_state(), random)
    assert not exact.language_model.module.training


@needs_trl
@pytest.mark.parametrize("kind", [TRLGRPO, TRLDPO])
@pytest.mark.parametrize("trainable", ["lora", "top_layers"])
def test_other_weights_may_move(kind: type, trainable: str, exact: Task) -> None:
    settings = {"top_layers": 1} if trainable == "top_layers" else {}
    algorithm = make(kind, exact, trainable=trainable, **settings)
    before = [p.detach().clone() for p in algorithm.policy.parameters()]
    for _ in range(2):
        assert algorithm.update()["grad_norm"] > 0
    assert all(not torch.equal(p, old) for p, old in zip(algorithm.policy.parameters(), before, strict=True))


@needs_trl
@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TRLGRPO, {"group_size": 5}, "batch_size 16 is not a multiple of group_size 5"),
        (TRLRLOO, {"micro_batch_size": 3}, "16 rows per step are not a multiple of micro_batch_size 3"),
        (TRLGRPO, {"loss_type": "bnpo", "micro_batch_size": 8}, "micro_batch_size would change the update"),
        (TRLDPO, {"batch_size": 15}, "batch_size 15 is odd"),
        (
            TRLDPO,
            {"label_smoothing": 0.1},
            "TRL ignores label_smoothing with loss_type sigmoid; give loss_type: robust",
        ),
        (TRLDPO, {"kl_coef": 0.0}, "kl_coef is 0"),
        (TRLDPO, {"labels": "deterministic", "label_temperature": 1.0}, "deterministic has no temperature"),
    ],
)
def test_wrong_settings_are_one_line(kind: type, settings: dict[str, Any], message: str, exact: Task) -> None:
    with pytest.raises(ConfigError, match=message):
        make(kind, exact, **settings)


@needs_trl
def test_half_precision_weights_are_refused(exact: Task) -> None:
    half = dataclasses.replace(exact, language_model=LanguageModel.load(MODEL, dtype="bfloat16"))
    with pytest.raises(ConfigError, match=r"would step on bfloat16 weights directly.*give the task dtype: float32"):
        make(TRLGRPO, half)
    assert {p.dtype for p in make(TRLGRPO, half, trainable="lora").policy.parameters()} == {torch.float32}


@needs_trl
def test_few_pairs_are_split_into_parts_that_weigh_the_same(exact: Task) -> None:
    algorithm = make(TRLDPO, exact, pairs_per_step=8, micro_batch_size=4)
    algorithm.trainer.data_collator = len
    assert [list(algorithm._split([{}] * pairs)) for pairs in (8, 6, 5, 3)] == [[4, 4], [3, 3], [1] * 5, [3]]


@needs_trl
@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_trained_tokens_are_those_of_ours(name: str, exact: Task) -> None:
    """TRL reads completions whole, we to the last column that predicts something: each costs its tokens and the prompt's two."""
    for contestant in (name, f"trl_{name}"):
        settings = {"batch_size": 32, **({"epochs": 1} if contestant == name else {})}
        algorithm = build(contestant, settings, exact, BUDGET, 0)
        algorithm.update()
        totals = algorithm.envs.meter
        assert totals.trained_tokens == totals.generated_tokens + 2 * totals.reward_queries


@needs_trl
def test_trained_tokens_of_pairs_are_those_of_ours(exact: Task) -> None:
    ours, theirs = (build(name, {}, exact, BUDGET, 0) for name in ("dpo", "trl_dpo"))
    for algorithm in (ours, theirs):
        algorithm.update()
    assert ours.envs.meter.generated_tokens == theirs.envs.meter.generated_tokens
    assert ours.envs.meter.trained_tokens == theirs.envs.meter.trained_tokens > 0
