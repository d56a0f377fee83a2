"""The algorithms without a value function: their maths by hand, their updates on the enumerable task."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build
from bakeoff.algos.core.optimizer import mean_metrics
from bakeoff.algos.core.rollout import Rollout, collect, minibatch_rows
from bakeoff.algos.grpo import GRPO
from bakeoff.algos.losses.advantages import group_advantages, leave_one_out_advantages
from bakeoff.algos.losses.kl import k3
from bakeoff.algos.losses.policy_gradient import completion_average, score_function_loss, sequence_surrogate
from bakeoff.algos.preference_data.sft_step import imitate
from bakeoff.algos.reinforce import Reinforce
from bakeoff.algos.rejection_sampling import RejectionSampling
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.errors import ConfigError

GROUPED = ["grpo", "rloo"]


def make(name: str, task: Task, queries: int = 2_000, **settings: Any) -> Algorithm:
    return build(name, settings, task, Budget(reward_queries=queries), 0)


def rollout_of(algorithm: Algorithm, group_size: int = 8) -> Rollout:
    return collect(algorithm.policy, algorithm.envs, algorithm.rng, group_size=group_size)


def gradient(algorithm: Algorithm, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(algorithm.policy.parameters()))])


# ---------------------------------------------------------------- advantages


def test_leave_one_out_by_hand() -> None:
    # Group (1, 2, 6): the others' means are 4, 3.5, 1.5. Group (0, 0, 3): 1.5, 1.5, 0.
    returns = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    expected = torch.tensor([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0])
    torch.testing.assert_close(leave_one_out_advantages(returns, 3), expected)


def test_leave_one_out_is_the_centered_return_stretched() -> None:
    # k / (k - 1) = 2 for pairs: (1, 5) has mean 3, so -2 * 2 and 2 * 2.
    torch.testing.assert_close(leave_one_out_advantages(torch.tensor([1.0, 5.0]), 2), torch.tensor([-4.0, 4.0]))


def test_group_advantages_by_hand() -> None:
    # (1, 2, 3): mean 2, sample deviation 1. (0, 0, 6): mean 2, deviation sqrt((4 + 4 + 16) / 2) = sqrt 12.
    returns = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 6.0])
    root = math.sqrt(12)
    expected = torch.tensor([-1.0, 0.0, 1.0, -2 / root, -2 / root, 4 / root])
    torch.testing.assert_close(group_advantages(returns, 3, normalize=True), expected, rtol=2e-4, atol=0)
    centered = torch.tensor([-1.0, 0.0, 1.0, -2.0, -2.0, 4.0])
    torch.testing.assert_close(group_advantages(returns, 3, normalize=False), centered)


def test_rounding_within_a_group_gives_no_advantage() -> None:
    returns = torch.tensor([1.0, 1.0 + 2e-7, 1.0, 1.0])
    assert group_advantages(returns, 4, normalize=True).abs().max() < 0.01
    assert torch.equal(group_advantages(torch.ones(4), 4, normalize=True), torch.zeros(4))


# ---------------------------------------------------------------- losses


def test_length_normalization_by_hand() -> None:
    # Completions of one and three tokens, losses 6 and (1, 2, 3); padding holds 99.
    values = torch.tensor([[6.0, 99.0, 99.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, False, False], [True, True, True]])
    average = {by: float(completion_average(values, mask, by=by, limit=4)) for by in ("completion", "batch", "limit")}
    assert average == {"completion": 4.0, "batch": 3.0, "limit": 1.5}  # (6 + 2) / 2; 12 / 4; (6/4 + 6/4) / 2


def test_the_sequence_ratio_is_the_product_of_token_ratios() -> None:
    # Two tokens may go to 1.2^sqrt(2) = 1.2941: the product of 1.1 and 1.05 is 1.155 and stays within at A = 1, that of 1.1 and
    # 1.2 is 1.32, and 1.2941 counts. Padding has log-probability 0 on both sides.
    old = torch.zeros(2, 3)
    new = torch.tensor([[1.1, 1.05, 1.0], [1.1, 1.2, 1.0]]).log()
    surrogate = sequence_surrogate(new, old, torch.ones(2), torch.tensor([2, 2]), clip=0.2)
    assert float(surrogate.loss) == pytest.approx(-(1.155 + 1.29413) / 2, rel=1e-5)
    assert float(surrogate.ratio_mean) == pytest.approx((1.155 + 1.32) / 2)
    assert float(surrogate.clip_fraction) == 0.5
    # At A = -1 the lower end counts: 1.2941^-1 = .7727 where the product is .7.
    below = sequence_surrogate(
        torch.tensor([[0.7, 1.0]]).log(), torch.zeros(1, 2), -torch.ones(1), torch.tensor([2]), clip=0.2
    )
    assert float(below.loss) == pytest.approx(0.77272, rel=1e-4)


def test_a_k3_loss_pulls_otherwise_than_the_kl() -> None:
    """On two tokens: d KL / d theta is exact; that of the k3 loss in expectation is another number."""
    # pi = (s, 1 - s), s = sigmoid(theta), theta = ln 3: s = .75; ref = (.5, .5).
    theta = torch.tensor(math.log(3.0), dtype=torch.float64, requires_grad=True)
    logpi = torch.stack([torch.nn.functional.logsigmoid(theta), torch.nn.functional.logsigmoid(-theta)])
    logref = torch.full((2,), math.log(0.5), dtype=torch.float64)
    weights = logpi.exp().detach()
    (of_loss,) = torch.autograd.grad((weights * k3(logpi, logref)).sum(), theta, retain_graph=True)
    # d k3 / d log pi = 1 - ref/pi: for the tokens 1 - 2/3 and 1 - 2; d log pi / d theta = .25 and -.75.
    assert float(of_loss) == pytest.approx(0.75 * (1 / 3) * 0.25 + 0.25 * (-1) * (-0.75))  # .25
    # As a reward: E[log(pi/ref) * d log pi] = .75 * ln 1.5 * .25 + .25 * ln .5 * (-.75), which is dKL/dtheta.
    (of_reward,) = torch.autograd.grad((weights * (logpi - logref).detach() * logpi).sum(), theta, retain_graph=True)
    (of_kl,) = torch.autograd.grad((logpi.exp() * (logpi - logref)).sum(), theta)
    assert float(of_reward) == pytest.approx(0.1875 * (math.log(1.5) + math.log(2)))
    assert float(of_reward) == pytest.approx(float(of_kl))


# ---------------------------------------------------------------- rollouts


def test_neighbors_share_a_prompt_and_groups_do_not(exact: Task) -> None:
    prompts = rollout_of(make("rloo", exact)).completions.prompts.indices_B.reshape(8, 8)
    assert all(len(set(group.tolist())) == 1 for group in prompts)
    # Eight groups over four prompts without replacement: each prompt twice.
    assert sorted(prompts[:, 0].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_return_is_the_score_less_the_price_of_the_log_ratio(exact: Task) -> None:
    rollout = rollout_of(make("rloo", exact))
    logprobs = torch.zeros_like(rollout.logprobs_BT)
    logprobs[:, 0], logprobs[:, 1] = -1.0, -2.0
    shifted = replace(rollout, logprobs_BT=logprobs, reference_logprobs_BT=3 * logprobs)  # log-ratios of 2 and 4
    torch.testing.assert_close(shifted.log_ratios_B, torch.full((64,), 6.0))
    torch.testing.assert_close(shifted.returns_B(0.5), rollout.scores_B - 3.0)
    figures = shifted.metrics(0.5)
    assert figures["objective"] == pytest.approx(figures["reward"] - 0.5 * figures["kl"], abs=1e-5)


def test_every_row_is_used_once_an_epoch() -> None:
    batches = list(minibatch_rows(10, 2, 3, torch.Generator().manual_seed(0)))
    assert [len(rows) for rows in batches] == [4, 3, 3, 4, 3, 3]
    for epoch in (batches[:3], batches[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(batches[:3]), torch.cat(batches[3:]))


def test_more_minibatches_than_rows_are_one_row_each() -> None:
    batches = list(minibatch_rows(2, 1, 5, torch.Generator().manual_seed(0)))
    assert [len(rows) for rows in batches] == [1, 1]


def test_metrics_are_averaged_over_steps() -> None:
    assert mean_metrics([{"a": 1.0, "b": 0.0}, {"a": 3.0, "b": 1.0}]) == {"a": 2.0, "b": 0.5}


# ---------------------------------------------------------------- GRPO and RLOO


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("placement", ["reward", "k3_loss", "k3_ratio_loss"])
def test_the_first_step_has_a_ratio_of_one(name: str, placement: str, exact: Task) -> None:
    metrics = make(name, exact, epochs=1, minibatches=1, kl_placement=placement).update()
    assert metrics["ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["approximate_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["clip_fraction"] == 0
    assert metrics["kl"] == pytest.approx(0, abs=1e-4)
    # Advantages add up to 0 within each group, so at ratio 1 the loss does as well.
    assert metrics["policy_loss"] == pytest.approx(0, abs=1e-5)


def test_rloo_at_ratio_one_has_the_gradient_of_reinforce(exact: Task) -> None:
    algorithm = make("rloo", exact)
    rollout = rollout_of(algorithm)
    advantages = leave_one_out_advantages(rollout.returns_B(0.3), 8)
    logprobs = algorithm.policy.model.token_logprobs(rollout.completions)
    reinforce = -(advantages * logprobs.sum(1)).mean()
    clipped = sequence_surrogate(
        logprobs, rollout.logprobs_BT, advantages, rollout.completions.lengths_B, clip=0.2
    ).loss
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(reinforce, list(algorithm.policy.parameters()), retain_graph=True)]
    )
    torch.testing.assert_close(gradient(algorithm, clipped), expected, atol=1e-6, rtol=1e-4)


def test_at_the_reference_the_kl_pulls_nowhere(exact: Task) -> None:
    """All placements give the same first update: k3 is at its minimum of 0, and log-ratios are 0 but for rounding."""
    for name in GROUPED:
        norms = [
            make(name, exact, epochs=1, minibatches=1, kl_placement=placement).update()["grad_norm"]
            for placement in ("reward", "k3_loss", "k3_ratio_loss")
        ]
        assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-3)
        assert norms[0] > 0


@pytest.mark.parametrize("name", GROUPED)
def test_placements_of_kl_after_the_policy_has_moved(name: str, exact: Task) -> None:
    def weights(placement: str) -> Tensor:
        algorithm = make(name, exact, kl_placement=placement)
        for _ in range(2):
            algorithm.update()
        return torch.cat([p.detach().flatten() for p in algorithm.policy.parameters()])

    in_reward, k3_alone, k3_ratio = (weights(placement) for placement in ("reward", "k3_loss", "k3_ratio_loss"))
    assert not torch.allclose(in_reward, k3_alone, atol=1e-4)
    assert not torch.allclose(in_reward, k3_ratio, atol=1e-4)
    assert not torch.allclose(k3_alone, k3_ratio, atol=1e-4)


@pytest.mark.parametrize("name", GROUPED)
def test_the_ratio_in_the_kl_loss_is_to_the_policy_that_sampled(name: str, exact: Task) -> None:
    """Off policy the loss with k3_ratio_loss is that with k3_loss plus beta * (ratio - 1) * k3."""
    losses = {}
    for placement in ("k3_loss", "k3_ratio_loss"):
        algorithm = make(name, exact, kl_placement=placement)
        played = rollout_of(algorithm)
        mask_BT = played.completions.mask_BT
        part = replace(
            played,
            logprobs_BT=played.logprobs_BT - 0.1 * mask_BT,
            reference_logprobs_BT=played.logprobs_BT - 0.5 * mask_BT,
        )
        losses[placement] = float(algorithm.loss(part, torch.zeros(len(part)))[0].detach())
    estimate = math.exp(-0.5) - 1 + 0.5
    tokens = 1.0 if name == "grpo" else float(mask_BT.sum(1).float().mean())
    beta = algorithm.kl_coef
    assert losses["k3_loss"] == pytest.approx(beta * estimate * tokens, rel=1e-4)
    assert losses["k3_ratio_loss"] == pytest.approx(beta * math.exp(0.1) * estimate * tokens, rel=1e-4)


def test_dr_grpo_has_rloo_s_direction(exact: Task) -> None:
    """Without variance, over a constant: A_i = R_i - mean R, which is (k - 1) / k of RLOO's, and 1 / T of its scale."""
    norms = {
        name: make(name, exact, epochs=1, minibatches=1, max_grad_norm=1e9, **settings).update()["grad_norm"]
        for name, settings in {
            "grpo": {"normalize_variance": False, "length_normalization": "limit"},
            "rloo": {},
        }.items()
    }
    assert norms["grpo"] == pytest.approx(norms["rloo"] * (7 / 8) / exact.max_new_tokens, rel=1e-3)


@pytest.mark.parametrize("by", ["completion", "batch", "limit"])
def test_grpo_learns_under_every_length_normalization(by: str, exact: Task) -> None:
    algorithm = make("grpo", exact, length_normalization=by)
    assert isinstance(algorithm, GRPO)
    rewards = [algorithm.update()["reward"] for _ in range(10)]
    # Rewards have deviation 1, so a mean of 64 has one of 1/8: a rise of 1 is beyond chance.
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rloo", {"kl_placement": "k3_loss"}),
        *(("grpo", {"length_normalization": by}) for by in ("completion", "batch")),
    ],
)
def test_micro_batches_change_nothing(name: str, settings: dict[str, str], exact: Task) -> None:
    """Gradients are gathered in parts of 5 of 32 rows, unequal in tokens and in rows: the step is that of the whole."""
    whole, parts = (make(name, exact, micro_batch_size=size, **settings).update() for size in (None, 5))
    for figure in ("policy_loss", "grad_norm"):  # means over eight steps: one step astray would show in the next
        assert parts[figure] == pytest.approx(whole[figure], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", GROUPED)
def test_a_batch_of_broken_groups_is_refused(name: str, exact: Task) -> None:
    with pytest.raises(ConfigError, match=f"{name}: batch_size 64 is not a multiple of group_size 7"):
        make(name, exact, group_size=7)
    with pytest.raises(ConfigError, match="group_size"):
        make(name, exact, group_size=1)


@pytest.mark.parametrize("name", GROUPED)
def test_meter_counts_each_epoch_as_training(name: str, exact: Task) -> None:
    algorithm = make(name, exact, epochs=3)
    tokens = round(algorithm.update()["length"] * 64)
    meter = algorithm.envs.meter
    assert (meter.reward_queries, meter.generated_tokens) == (64, tokens)
    assert meter.trained_tokens == 3 * (64 * 2 + tokens)


# ---------------------------------------------------------------- REINFORCE


def test_score_function_loss_by_hand() -> None:
    # Log-probabilities add up to -3 and -1; advantages 2 and -1: -(2 * -3 + -1 * -1) / 2 = 2.5.
    logprobs = torch.tensor([[-1.0, -2.0], [-1.0, 0.0]], requires_grad=True)
    loss = score_function_loss(logprobs, torch.tensor([2.0, -1.0]))
    loss.backward()
    assert loss.item() == 2.5
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-1.0, -1.0], [0.5, 0.5]]))


def baselines(algorithm: Reinforce, means: list[float]) -> tuple[list[float], float | None]:
    """The baseline of each batch with these means, and that of the batch to come."""
    used, following = [], None
    for mean in means:
        now, following = algorithm.move_baseline(following, mean)
        used.append(now)
    return used, following


def test_the_running_baseline_lags_a_batch_behind(exact: Task) -> None:
    algorithm = make("reinforce", exact, baseline_decay=0.75)
    assert isinstance(algorithm, Reinforce)
    # The first batch is its own; then .75 * 4 + .25 * 8 = 5 serves the third.
    assert baselines(algorithm, [4.0, 8.0, 0.0]) == ([4.0, 4.0, 5.0], 3.75)


def test_the_batch_baseline_is_the_batch_s_own_mean(exact: Task) -> None:
    algorithm = make("reinforce", exact, baseline="batch")
    assert isinstance(algorithm, Reinforce)
    assert baselines(algorithm, [4.0, 8.0, 0.0]) == ([4.0, 8.0, 0.0], 0.0)
    metrics = algorithm.update()
    assert metrics["baseline"] == pytest.approx(metrics["objective"])


@pytest.mark.parametrize("baseline", ["running", "batch"])
def test_reinforce_learns(baseline: str, exact: Task) -> None:
    algorithm = make("reinforce", exact, 64 * 45, baseline=baseline, learning_rate_schedule="constant")
    rewards = [algorithm.update()["reward"] for _ in range(45)]
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 1


# ---------------------------------------------------------------- imitation


def test_imitation_starts_at_the_reference_s_own_likelihood(exact: Task) -> None:
    algorithm = make("rejection_sampling", exact)
    assert isinstance(algorithm, RejectionSampling)
    completions = rollout_of(algorithm).completions
    rows = torch.tensor([3, 5])
    algorithm.optimizer.start_update(0.0)
    figures = imitate(algorithm.policy, algorithm.optimizer, completions, rows)
    # Nats per token over the tokens of both rows, as the sampler saw them.
    tokens = completions.lengths_B[rows].sum()
    assert figures["nll"] == pytest.approx(-float(completions.logprobs_BT[rows].sum() / tokens), abs=1e-5)
    assert imitate(algorithm.policy, algorithm.optimizer, completions, rows)["nll"] < figures["nll"]


def test_rejection_sampling_keeps_one_of_each_group(exact: Task) -> None:
    metrics = make("rejection_sampling", exact, n=64).update()
    assert metrics["best_reward"] > metrics["reward"] + 1  # the best of 64 draws is about 2.3 deviations up
    with pytest.raises(ConfigError, match="rejection_sampling: batch_size 64 is not a multiple of n 6"):
        make("rejection_sampling", exact, n=6)


def test_the_winner_is_ranked_by_what_is_set(exact: Task) -> None:
    """With a KL term above the reward, ranking by the objective pulls back to the reference; by reward it does not."""
    kl = {}
    for rank_by in ("objective", "reward"):
        algorithm = make("rejection_sampling", exact, rank_by=rank_by, kl_coef=20.0, learning_rate_schedule="constant")
        for _ in range(10):
            metrics = algorithm.update()
        kl[rank_by] = metrics["kl"]
    assert kl["reward"] > 1 > kl["objective"]
