"""Pairs: their log-probabilities, keeping them, walking through them in parts."""

import math

import pytest
import torch

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.dpo import pair_loss, train_on_pairs
from bakeoff.algos.preference_data.objective import PreferenceObjective, mean_pair_metrics
from bakeoff.algos.preference_data.pairs import PairBuffer, TokenizedPairs
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.meter import Meter
from bakeoff.envs.tasks.base import Task


def some_pairs(task: Task, policy: Policy, count: int = 12, seed: int = 0) -> TokenizedPairs:
    """Pairs of the reference's completions, with rewards that follow the number of tokens."""
    generator = torch.Generator().manual_seed(seed)
    prompts = task.language_model.pad(task.language_model.encode(task.prompts.train)).repeat_interleave(count // 4)
    sides = [task.language_model.sample(prompts, task.max_new_tokens, generator) for _ in range(2)]
    margin_B = (sides[0].lengths_B - sides[1].lengths_B).float()
    return TokenizedPairs.with_reference(policy, *sides, reward_margin_B=margin_B, preference_B=margin_B.sigmoid())


def pair_logps(policy: Policy, pairs: TokenizedPairs) -> torch.Tensor:
    return policy.model.token_logprobs(pairs.joined).sum(1).reshape(2, len(pairs)).T


def mean_loss(objective: PreferenceObjective, logps_B2: torch.Tensor, pairs: TokenizedPairs) -> torch.Tensor:
    return pair_loss(objective, logps_B2, pairs.reference_logps_B2, pairs.lengths_B2, pairs.preference_B)[0]


def make_policy(task: Task, **settings: object) -> tuple[Policy, Optimizer]:
    config = AlgorithmConfig(warmup_steps=0, **settings)
    policy = Policy(task.language_model, Meter(), config)
    optimizer = Optimizer(policy.parameters(), config, policy.model.width)
    optimizer.start_update(0.0)
    return policy, optimizer


def widened(side: Completions, left: int, right: int) -> Completions:
    """The same completions with more padding on both sides, of tokens that would matter if they were read."""
    pad = torch.nn.functional.pad
    prompts = side.prompts
    wide = type(prompts)(pad(prompts.tokens_BP, (left, 0), value=3), pad(prompts.mask_BP, (left, 0)), prompts.indices_B)
    return Completions(wide, pad(side.tokens_BT, (0, right), value=3), pad(side.mask_BT, (0, right)))


def test_log_probabilities_are_sums_over_each_completion(exact: Task) -> None:
    policy, _ = make_policy(exact)
    pairs = some_pairs(exact, policy)
    alone = torch.stack([policy.model.token_logprobs(side).sum(1) for side in (pairs.chosen, pairs.rejected)], 1)
    torch.testing.assert_close(pair_logps(policy, pairs), alone, atol=1e-5, rtol=1e-5)
    # The policy starts as the reference.
    torch.testing.assert_close(pairs.reference_logps_B2, alone.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 3), (2, 4)])
def test_padding_on_either_side_changes_nothing(left: int, right: int, exact: Task) -> None:
    policy, _ = make_policy(exact)
    pairs = some_pairs(exact, policy)
    wide = TokenizedPairs.with_reference(
        policy,
        widened(pairs.chosen, left, right),
        widened(pairs.rejected, left, right + 1),
        preference_B=pairs.preference_B,
    )
    torch.testing.assert_close(wide.reference_logps_B2, pairs.reference_logps_B2, atol=1e-5, rtol=1e-5)
    objective = PreferenceObjective(beta=0.3, supervised_coef=0.1, length_normalization=True)
    losses = [mean_loss(objective, pair_logps(policy, p) + 0.1 * p.lengths_B2, p) for p in (wide, pairs)]
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-5)


def test_one_loss_a_pair_whatever_its_length(exact: Task) -> None:
    """Twice the tokens do not make twice the weight: the batch's loss is the mean of the losses of its pairs alone."""
    policy, _ = make_policy(exact)
    pairs = some_pairs(exact, policy)
    objective = PreferenceObjective(beta=0.3, supervised_coef=0.2)
    logps = pair_logps(policy, pairs) + torch.randn(len(pairs), 2, generator=torch.Generator().manual_seed(1))
    assert len(set(pairs.lengths_B2.flatten().tolist())) > 2
    each = [mean_loss(objective, logps[[i]], pairs.select(torch.tensor([i]))) for i in range(len(pairs))]
    torch.testing.assert_close(mean_loss(objective, logps, pairs), torch.stack(each).mean())


def test_objective_by_hand(exact: Task) -> None:
    policy, _ = make_policy(exact)
    pairs = some_pairs(exact, policy).select(torch.tensor([0]))
    (long, short), (a, b) = pairs.lengths_B2[0].tolist(), pairs.reference_logps_B2[0].tolist()
    pairs = TokenizedPairs(pairs.chosen, pairs.rejected, pairs.reference_logps_B2, torch.ones(1), torch.zeros(1))
    logps = torch.tensor([[a + 1.0, b - 2.0]])

    def loss(**settings: object) -> float:
        return float(mean_loss(PreferenceObjective(beta=0.5, **settings), logps, pairs))

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    assert loss() == pytest.approx(softplus(-1.5), rel=1e-4)
    assert loss(length_normalization=True) == pytest.approx(softplus(-0.5 * (1 / long + 2 / short)), rel=1e-4)
    assert loss(reference_free=True) == pytest.approx(softplus(-0.5 * (a + 1 - b + 2)), rel=1e-4)
    assert loss(supervised_coef=0.3) == pytest.approx(softplus(-1.5) - 0.3 * (a + 1) / long, rel=1e-4)
    simpo = -0.5 * ((a + 1) / long - (b - 2) / short) + 0.2
    assert loss(reference_free=True, length_normalization=True, target_margin=0.2) == pytest.approx(
        softplus(simpo), rel=1e-4
    )


def test_parts_add_up_to_the_whole_batch(exact: Task) -> None:
    weights, logs = [], []
    for micro in (None, 5, 1):
        policy, optimizer = make_policy(exact, micro_batch_size=micro)
        objective = PreferenceObjective(beta=0.3, supervised_coef=0.1)
        pairs = some_pairs(exact, policy)
        logs.append([train_on_pairs(policy, optimizer, pairs, objective) for _ in range(2)])
        weights.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    for other, steps in zip(weights[1:], logs[1:], strict=True):
        torch.testing.assert_close(other, weights[0], atol=2e-5, rtol=1e-3)
        for step, expected in zip(steps, logs[0], strict=True):
            assert step == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_metrics_after_a_step(exact: Task) -> None:
    policy, optimizer = make_policy(exact, learning_rate=1e-3)
    pairs, objective = some_pairs(exact, policy, 32), PreferenceObjective(beta=0.3)
    first = train_on_pairs(policy, optimizer, pairs, objective)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    for _ in range(10):
        last = train_on_pairs(policy, optimizer, pairs, objective)
    metrics = mean_pair_metrics([last])
    assert metrics["margin"] == pytest.approx(metrics["chosen_reward"] - metrics["rejected_reward"], abs=1e-5)
    assert metrics["proxy_correlation"] > 0.5
    exchanged = TokenizedPairs(
        pairs.rejected, pairs.chosen, pairs.reference_logps_B2.flip(1), 1 - pairs.preference_B, -pairs.reward_margin_B
    )
    twin = mean_pair_metrics([train_on_pairs(policy, optimizer, exchanged, objective)])
    again = mean_pair_metrics([train_on_pairs(policy, optimizer, pairs, objective)])
    assert twin["proxy_correlation"] == pytest.approx(again["proxy_correlation"], abs=0.05)


def test_correlation_by_hand_and_only_where_rewards_are_known() -> None:
    step = {"loss": 1.0, "margin_reward": 2.0, "margin_square": 4.0, "reward_square": 4.0}
    assert mean_pair_metrics([step]) == {"loss": 1.0, "proxy_correlation": 0.5}
    assert mean_pair_metrics([{**step, "margin_reward": 0.0, "reward_square": 0.0}]) == {"loss": 1.0}
    assert mean_pair_metrics([{**step, "margin_reward": 0.0, "margin_square": 0.0}])["proxy_correlation"] == 0.0


def test_a_memory_keeps_the_newest_and_gives_back_what_it_saved(exact: Task) -> None:
    policy, _ = make_policy(exact)
    first, second = some_pairs(exact, policy, 8, 0), some_pairs(exact, policy, 8, 1)
    memory = PairBuffer(capacity=12)
    memory.add(first)
    memory.add(second)
    assert (len(memory), memory.added) == (12, 16)
    expected = torch.cat([first.reference_logps_B2[4:], second.reference_logps_B2])
    torch.testing.assert_close(memory.pairs.reference_logps_B2, expected)
    torch.testing.assert_close(pair_logps(policy, memory.pairs).detach(), expected, atol=1e-5, rtol=1e-5)
    twin = PairBuffer(capacity=12)
    twin.load_state_dict(memory.state_dict())
    assert (len(twin), twin.added) == (12, 16)
    for name, tensor in memory.pairs.state_dict().items():
        assert torch.equal(tensor, twin.pairs.state_dict()[name])
    rows = memory.draw(5, torch.Generator().manual_seed(0))
    assert len(set(rows.tolist())) == 5
    assert torch.equal(rows, twin.draw(5, torch.Generator().manual_seed(0)))


def test_an_empty_memory_saves_and_says_what_is_wrong() -> None:
    memory = PairBuffer()
    memory.load_state_dict(memory.state_dict())
    with pytest.raises(ValueError, match="nothing was added"):
        _ = memory.pairs
