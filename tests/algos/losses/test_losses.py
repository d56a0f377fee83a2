"""PPO's losses and the KL estimators against numbers derived by hand."""

import math

import pytest
import torch

from bakeoff.algos.losses import kl
from bakeoff.algos.losses.policy_gradient import clipped_surrogate, clipped_value_loss

ONE = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "expected"),
    [
        (1.0, 1.0, -1.2),  # ratio e is clipped to 1.2
        (1.0, -1.0, -math.exp(-1)),  # a worse ratio is never clipped away
        (-1.0, 1.0, math.e),
        (-1.0, -1.0, 0.8),
    ],
)
def test_clipped_surrogate(advantage: float, log_ratio: float, expected: float) -> None:
    logprobs = torch.full((1, 1), log_ratio)
    surrogate = clipped_surrogate(logprobs, torch.zeros(1, 1), torch.full((1, 1), advantage), ONE, clip=0.2)
    assert float(surrogate.loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "moves"), [(1.0, 1.0, False), (1.0, -1.0, True), (-1.0, 1.0, True), (-1.0, -1.0, False)]
)
def test_the_gradient_stops_where_the_clip_counts(advantage: float, log_ratio: float, moves: bool) -> None:
    logprobs = torch.full((1, 1), log_ratio, requires_grad=True)
    surrogate = clipped_surrogate(logprobs, torch.zeros(1, 1), torch.full((1, 1), advantage), ONE, clip=0.2)
    surrogate.loss.backward()
    expected = -advantage * math.exp(log_ratio) if moves else 0.0
    assert float(logprobs.grad) == pytest.approx(expected)
    assert float(surrogate.clip_fraction) == (0.0 if moves else 1.0)


def test_surrogate_diagnostics_ignore_padding() -> None:
    logprobs = torch.tensor([[math.log(2.0), 5.0]])
    mask = torch.tensor([[True, False]])
    surrogate = clipped_surrogate(logprobs, torch.zeros(1, 2), torch.ones(1, 2), mask, clip=0.2)
    assert float(surrogate.ratio_mean) == pytest.approx(2.0)
    assert float(surrogate.approximate_kl) == pytest.approx(1 - math.log(2))
    assert float(surrogate.clip_fraction) == 1.0


def test_value_loss_takes_the_larger_of_plain_and_clipped() -> None:
    # Old value 0, new 1, return 1: plain error 0, clipped value .2 leaves .64, half of it counts.
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    assert float(clipped_value_loss(one, zero, one, ONE, clip=0.2)) == pytest.approx(0.32)
    assert float(clipped_value_loss(one, zero, one, ONE, clip=None)) == 0.0
    # Moving away from the return is not hidden by the clip: new -1, return 1: plain 4, clipped 1.44.
    assert float(clipped_value_loss(-one, zero, one, ONE, clip=0.2)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (1.0, {"k1": (0.0, 2.0), "k2": (0.25, 1.73), "k3": (0.0, 1.70)}),
        (0.1, {"k1": (0.0, 20), "k2": (0.0025, 1.42), "k3": (0.0, 1.42)}),
    ],
)
def test_kl_estimators_have_their_published_bias_and_deviation(
    gap: float, expected: dict[str, tuple[float, float]]
) -> None:
    # Schulman's example: p = N(0, 1), q = N(gap, 1), true KL = gap^2 / 2; figures relative to the true value.
    true = gap**2 / 2
    samples = torch.randn(4_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logp, logq = -(samples**2) / 2, -((samples - gap) ** 2) / 2
    for name, (bias, deviation) in expected.items():
        estimate = getattr(kl, name)(logp, logq)
        # The published figures have three digits; the mean of 4e6 draws is good to deviation / 2000.
        assert float(estimate.mean()) / true - 1 == pytest.approx(bias, abs=deviation / 2000 * 4 + 5e-4)
        assert float(estimate.std()) / true == pytest.approx(deviation, rel=0.01)


def test_k3_times_the_ratio_by_hand() -> None:
    # p = .5, old = .25, q = .125: ratio 2; k3 = 1/4 - 1 + ln 4. The derivative by log p is ratio * (k3 + 1 - q/p) = 2 ln 4.
    logp = torch.tensor(math.log(0.5), dtype=torch.float64, requires_grad=True)
    old, reference = torch.tensor([0.25, 0.125], dtype=torch.float64).log()
    value = kl.k3_ratio(logp, old, reference)
    assert float(value.detach()) == pytest.approx(2 * (math.log(4) - 0.75))
    value.backward()
    assert float(logp.grad) == pytest.approx(2 * math.log(4))


def test_on_policy_the_gradient_of_k3_times_the_ratio_is_k2_s() -> None:
    generator = torch.Generator().manual_seed(0)
    logp, reference = -3 * torch.rand(2, 64, generator=generator, dtype=torch.float64)
    logp.requires_grad_()
    (of_ratio,) = torch.autograd.grad(kl.k3_ratio(logp, logp.detach(), reference).sum(), logp)
    (of_k2,) = torch.autograd.grad(kl.k2(logp, reference).sum(), logp)
    (of_k3,) = torch.autograd.grad(kl.k3(logp, reference).sum(), logp)
    torch.testing.assert_close(of_ratio, of_k2, rtol=0, atol=1e-12)
    assert (of_k3 - of_k2).abs().max() > 0.1


def test_adaptive_coefficient() -> None:
    # Twice the target is clipped to an error of .2: .15 * (1 + .2 * 512 / 10000).
    assert kl.adapt_coefficient(0.15, 12.0, 6.0, 512, 10_000) == pytest.approx(0.151536)
    assert kl.adapt_coefficient(0.15, 0.0, 6.0, 512, 10_000) == pytest.approx(0.148464)
    assert kl.adapt_coefficient(0.15, 6.0, 6.0, 512, 10_000) == 0.15


@pytest.mark.parametrize(("kl_value", "factor"), [(1e3, 1.22), (0.0, 0.82)])
def test_the_adaptive_coefficient_over_a_horizon(kl_value: float, factor: float) -> None:
    coefficient = 1.0
    for _ in range(1000):  # steps of 10 of 10,000 completions
        coefficient = kl.adapt_coefficient(coefficient, kl_value, 6.0, 10, 10_000)
    assert coefficient == pytest.approx(factor, abs=0.005)
