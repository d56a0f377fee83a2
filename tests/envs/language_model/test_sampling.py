"""Choosing tokens: the inverse of the cumulative distribution, temperature, top-k and top-p, by hand."""

import pytest
import torch

from bakeoff.envs.language_model.sampling import check_sampling, filter_logits, inverse_cdf
from bakeoff.errors import UserError


def chosen(probabilities: list[float], uniforms: list[float]) -> list[int]:
    table = torch.tensor([probabilities]).expand(len(uniforms), -1)
    return inverse_cdf(table, torch.tensor(uniforms)).tolist()


def test_each_token_owns_its_slice_of_the_unit_interval() -> None:
    assert chosen([0.25, 0.5, 0.25], [0.0, 0.24, 0.26, 0.74, 0.76, 0.999]) == [0, 0, 1, 1, 2, 2]


def test_tokens_of_probability_zero_are_never_sampled() -> None:
    almost_one = 1 - 2**-24  # the largest float32 below 1
    assert chosen([0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.5, almost_one]) == [1, 3, 3]


def test_temperature_zero_is_greedy_and_ties_go_to_the_first() -> None:
    probabilities = filter_logits(torch.tensor([[1.0, 3.0, 3.0]]), 0, 0, 1.0).softmax(1)
    assert probabilities.tolist() == [[0.0, 1.0, 0.0]]


def test_temperature_two_takes_the_square_root_of_the_odds() -> None:
    probabilities = filter_logits(torch.tensor([[9.0, 1.0]]).log(), 2.0, 0, 1.0).softmax(1)
    torch.testing.assert_close(probabilities, torch.tensor([[0.75, 0.25]]))


def test_top_k_keeps_the_likeliest() -> None:
    probabilities = filter_logits(torch.tensor([[0.5, 0.2, 0.3]]).log(), 1.0, 2, 1.0).softmax(1)
    torch.testing.assert_close(probabilities, torch.tensor([[0.625, 0.0, 0.375]]))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.4, [1.0, 0.0, 0.0]), (0.5, [1.0, 0.0, 0.0]), (0.6, [0.625, 0.0, 0.375]), (1.0, [0.5, 0.2, 0.3])],
)
def test_top_p_keeps_the_smallest_set_with_that_mass(top_p: float, kept: list[float]) -> None:
    probabilities = filter_logits(torch.tensor([[0.5, 0.2, 0.3]]).log(), 1.0, 0, top_p).softmax(1)
    torch.testing.assert_close(probabilities, torch.tensor([kept]))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "message"),
    [
        (-1.0, 0, 1.0, "temperature is -1"),
        (1.0, -2, 1.0, "top_k is -2"),
        (1.0, 0, 0.0, "top_p is 0"),
        (float("nan"), 0, 1.0, "temperature is nan"),
    ],
)
def test_settings_that_define_no_distribution_are_refused(
    temperature: float, top_k: int, top_p: float, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_sampling(temperature, top_k, top_p)


def test_a_softmax_may_be_written_over_its_own_input() -> None:
    # The sampler relies on it: logits and probabilities take turns in one table.
    logits = torch.randn(5, 1003, generator=torch.Generator().manual_seed(0)) * 10
    expected = logits.softmax(1)
    assert torch.equal(torch.softmax(logits, 1, out=logits), expected)


def test_weights_that_have_diverged_are_named():
    broken = torch.full((2, 8), float("nan"))
    with pytest.raises(FloatingPointError, match="not finite: its weights have diverged; lower learning_rate"):
        inverse_cdf(broken, torch.zeros(2))
