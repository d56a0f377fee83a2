"""Advantages, rewards and whitening against numbers derived by hand."""

import pytest
import torch

from bakeoff.algos.losses.advantages import (
    explained_variance,
    generalized_advantages,
    kl_shaped_rewards,
    masked_mean,
    whiten,
)


def test_gae_of_a_reward_at_the_end() -> None:
    # V = r = (0, 0, 0, 1), gamma .9, lambda .95. Backwards: delta_3 = 1 - 1 = 0; delta_2 = .9 * 1 = .9;
    # A_1 = .9 * .95 * .9; A_0 = (.9 * .95)^2 * .9; the return adds V.
    row = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    advantages, returns = generalized_advantages(row, row, torch.ones(1, 4, dtype=torch.bool), gamma=0.9, lam=0.95)
    torch.testing.assert_close(returns, torch.tensor([[0.9**3 * 0.95**2, 0.9**2 * 0.95, 0.9, 1.0]]))
    torch.testing.assert_close(advantages, torch.tensor([[0.657922, 0.7695, 0.9, 0.0]]), atol=2e-6, rtol=0)


def test_gae_stops_at_each_rows_own_end() -> None:
    # Row 0 has two tokens. What its padding holds must not leak back. gamma .5, lambda 1, values 2:
    # t=1: 4 - 2 = 2; t=0: (1 + .5 * 2 - 2) + .5 * 2 = 1.
    rewards = torch.tensor([[1.0, 4.0, 77.0], [1.0, 4.0, 8.0]])
    values = torch.tensor([[2.0, 2.0, 99.0], [2.0, 2.0, 2.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    advantages, returns = generalized_advantages(rewards, values, mask, gamma=0.5, lam=1.0)
    torch.testing.assert_close(advantages[0], torch.tensor([1.0, 2.0, 0.0]))
    torch.testing.assert_close(returns[0], torch.tensor([3.0, 4.0, 0.0]))
    # Row 1: t=2: 6; t=1: (4 + 1 - 2) + 3 = 6; t=0: (1 + 1 - 2) + 3 = 3.
    torch.testing.assert_close(advantages[1], torch.tensor([3.0, 6.0, 6.0]))


def test_lambda_one_and_lambda_zero() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    _, returns = generalized_advantages(rewards, values, mask, gamma=1.0, lam=1.0)
    torch.testing.assert_close(returns, torch.tensor([[6.0, 5.0, 3.0]]))
    one_step, _ = generalized_advantages(rewards, values, mask, gamma=1.0, lam=0.0)
    torch.testing.assert_close(one_step, torch.tensor([[11.0, 12.0, -27.0]]))


def test_kl_penalty_at_every_token_and_the_score_at_the_last() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0])
    difference = torch.tensor([[0.1], [0.2], [0.3]]).expand(3, 3)
    mask = torch.ones(3, 3, dtype=torch.bool)
    rewards = kl_shaped_rewards(scores, difference, torch.zeros(3, 3), mask, 0.5)
    expected = torch.tensor([[-0.05, -0.05, 0.95], [-0.1, -0.1, 1.9], [-0.15, -0.15, 2.85]])
    torch.testing.assert_close(rewards, expected)


def test_a_short_completion_is_scored_at_its_last_token() -> None:
    mask = torch.tensor([[True, False, False], [True, True, False]])
    rewards = kl_shaped_rewards(torch.tensor([5.0, 7.0]), torch.ones(2, 3), torch.zeros(2, 3), mask, 1.0)
    torch.testing.assert_close(rewards, torch.tensor([[4.0, 0.0, 0.0], [-1.0, 6.0, 0.0]]))


def test_whitening_looks_at_real_tokens_only() -> None:
    values = torch.tensor([[1.0, 3.0, 1000.0]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(whiten(values, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    torch.testing.assert_close(whiten(values, mask, shift_mean=False), torch.tensor([[1.0, 3.0, 0.0]]))


def test_masked_mean_of_nothing_is_zero() -> None:
    assert masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)) == 0


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 2.0, 3.0], 1.0), ([2.0, 2.0, 2.0], 0.0), ([3.0, 2.0, 1.0], -3.0)]
)
def test_explained_variance(values: list[float], expected: float) -> None:
    # Returns 1, 2, 3 have variance 2/3; reversed values leave errors -2, 0, 2 of variance 8/3: 1 - 4 = -3.
    real = torch.ones(3, dtype=torch.bool)
    assert explained_variance(torch.tensor(values), torch.tensor([1.0, 2.0, 3.0]), real) == pytest.approx(expected)


def test_explained_variance_of_a_constant_return_is_zero() -> None:
    real = torch.ones(2, dtype=torch.bool)
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([4.0, 4.0]), real) == 0.0
