from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bakeoff.algos.reward_models.bradley_terry import bradley_terry_loss, fit_head, newton
from bakeoff.algos.reward_models.metrics import (
    accuracy,
    expected_calibration_error,
    floors,
    log_loss,
    reliability,
    wilson,
)
from bakeoff.envs.preferences.load import PreferencePair


def test_the_loss_by_hand():
    differences = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    # -log sigmoid(d) = log(1 + e^-d)
    assert bradley_terry_loss(differences).tolist() == pytest.approx([0.693147, 0.313262, 2.126928], abs=1e-6)
    margins = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    assert bradley_terry_loss(differences, margins).tolist() == pytest.approx([1.313262, 0.693147, 2.126928], abs=1e-6)
    # a fifth of the labels the wrong way round: .8 * .313262 + .2 * 1.313262
    assert bradley_terry_loss(differences, label_smoothing=0.2)[1].item() == pytest.approx(0.513262, abs=1e-6)


def test_newton_finds_where_the_gradient_is_zero():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 6, generator=generator, dtype=torch.float64)
    margins, penalty, smoothing = torch.rand(80, generator=generator, dtype=torch.float64), 0.05, 0.1
    weights = newton(features, margins, smoothing, penalty).requires_grad_(True)
    loss = bradley_terry_loss(features @ weights, margins, smoothing).mean() + penalty / 2 * weights.square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-6


def test_a_head_finds_the_direction_that_made_the_labels():
    generator = torch.Generator().manual_seed(0)
    true = torch.tensor([3.0, 0, 0, 0, -1.0, 0, 0, 0], dtype=torch.float64)
    features = torch.randn(2000, 8, generator=generator, dtype=torch.float64)
    wins = torch.rand(2000, generator=generator, dtype=torch.float64) < torch.sigmoid(features @ true)
    signed = torch.where(wins[:, None], features, -features)  # chosen minus rejected
    head = fit_head(signed * 10, [n % 5 for n in range(2000)])  # in whatever units
    assert (head.weight_D * 10).tolist() == pytest.approx(true.tolist(), abs=0.3)
    noise = fit_head(torch.randn(100, 8, generator=generator), [n % 5 for n in range(100)])
    assert noise.penalty > head.penalty


def one_each(count: int) -> list[PreferencePair]:
    return [PreferencePair(f"p{n}", "c", "r") for n in range(count)]


def test_accuracy_counts_ties_as_half_and_has_wilsons_interval():
    found = accuracy(np.array([1.0, -1.0, 0.0, 2.0]), one_each(4))
    assert found.value == 0.625
    assert (found.low, found.high) == wilson(0.625, 4)
    # Wilson 1927: 8 of 10 gives .490 to .943
    assert wilson(0.8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_pairs_of_one_prompt_count_together_in_the_interval():
    differences = np.array(([1.0] * 10 + [-1.0] * 10) * 10)
    apart = accuracy(differences, one_each(200))
    together = accuracy(differences, [PreferencePair(f"p{n // 10}", "c", "r") for n in range(200)])
    assert apart.value == together.value == 0.5
    assert together.high - together.low > 2.5 * (apart.high - apart.low)


def test_calibration_by_hand():
    # Two pairs at 60 % confidence, both right; two at 90 %, one right.
    sure = [math.log(0.6 / 0.4)] * 2 + [math.log(0.9 / 0.1), -math.log(0.9 / 0.1)]
    bins = reliability(np.array(sure), bins=5)
    assert [(round(b.confidence, 6), b.accuracy, b.pairs) for b in bins] == [(0.6, 1.0, 2), (0.9, 0.5, 2)]
    assert expected_calibration_error(bins) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert log_loss(np.array([0.0])) == pytest.approx(math.log(2))


def test_floors_know_length_and_words_of_the_prompt():
    pairs = [
        PreferencePair("red green", "red", "blue blue"),
        PreferencePair("one two", "three four", "one"),
        PreferencePair("x", "same", "size"),
    ]
    values = {name: floor.value for name, floor in floors(pairs).items()}
    assert values == {
        "longer wins": pytest.approx(0.5),
        "shorter wins": pytest.approx(0.5),
        "most similar to the prompt": pytest.approx(0.5),
    }
    assert floors(pairs[:1])["longer wins"].value == 0
    assert floors(pairs[:1])["most similar to the prompt"].value == 1
