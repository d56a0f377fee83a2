"""The preference losses against numbers derived by hand, their signs, and their gradients."""

import math
from typing import get_args

import pytest
import torch

from bakeoff.algos.losses.preference import PreferenceLossType, kto_loss, preference_loss
from bakeoff.errors import UserError

LOSSES = get_args(PreferenceLossType)


def at(h: float, loss_type: str = "sigmoid", **settings: object) -> float:
    """The loss of one pair whose margin of log-ratios is ``h``, all of it on the chosen side."""
    values = [torch.tensor([x]) for x in (h - 3.0, -5.0, -3.0, -5.0)]
    settings = {"beta": 0.5, **settings}
    return float(preference_loss(*values, loss_type=loss_type, **settings).loss)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_worked_case_of_the_paper() -> None:
    parts = [[-0.5, -10, -1], [-0.1, -30, -21], [-0.5, -10.1, -0.1], [-0.1, -20.1, -0.1]]
    result = preference_loss(*(torch.tensor(x, dtype=torch.float64) for x in parts), beta=0.1)
    # h = 0, (-10 + 30) - (-10.1 + 20.1) = 10, (-1 + 21) - (-.1 + .1) = 20
    assert result.margins_B.tolist() == pytest.approx([0, 1, 2])
    assert result.losses_B.tolist() == pytest.approx([0.6931472, 0.3132617, 0.1269280], abs=1e-6)
    assert result.chosen_rewards_B.tolist() == pytest.approx([0, 0.01, -0.09])
    assert result.rejected_rewards_B.tolist() == pytest.approx([0, -0.99, -2.09])
    assert result.accuracies_B.tolist() == [0.5, 1, 1]
    assert float(result.loss) == pytest.approx((0.6931472 + 0.3132617 + 0.1269280) / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("loss_type", "settings", "expected"),
    [
        # h = 4 on the chosen side alone, beta .5: beta h = 2.
        ("sigmoid", {}, softplus(-2)),
        ("sigmoid", {"label_smoothing": 0.1}, 0.9 * softplus(-2) + 0.1 * softplus(2)),
        ("sigmoid", {"target_margin": 0.5}, softplus(-1.5)),
        ("ipo", {}, (4 - 1) ** 2),
        ("ipo", {"label_smoothing": 0.25}, 0.75 * (4 - 1) ** 2 + 0.25 * (4 + 1) ** 2),
        ("hinge", {}, 0.0),
        ("hinge", {"beta": 0.1}, 0.6),
        ("hinge", {"label_smoothing": 0.25}, 0.25 * 3),
        ("robust", {"label_smoothing": 0.1}, (0.9 * softplus(-2) - 0.1 * softplus(2)) / 0.8),
        ("robust", {}, softplus(-2)),
        # q = sigmoid(2) = .880797, p = .9: .880797 log(.880797/.9) + .119203 log(.119203/.1)
        ("exo", {"label_smoothing": 0.1}, 0.880797 * math.log(0.880797 / 0.9) + 0.119203 * math.log(0.119203 / 0.1)),
        # goals are +-1/(2 beta) = +-1: (4 - 1)^2 + (0 + 1)^2
        ("sppo", {}, 10.0),
        ("sppo", {"label_smoothing": 0.25}, 0.75 * 10 + 0.25 * ((0 - 1) ** 2 + (4 + 1) ** 2)),
    ],
)
def test_values(loss_type: str, settings: dict[str, float], expected: float) -> None:
    assert at(4.0, loss_type, **settings) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_a_step_downhill_widens_the_margin_from_the_start(loss_type: str) -> None:
    values = [torch.tensor([x], requires_grad=True) for x in (-3.0, -5.0)]
    theirs = [torch.tensor([x]) for x in (-3.0, -5.0)]
    preference_loss(*values, *theirs, beta=0.5, loss_type=loss_type, label_smoothing=0.1).loss.backward()
    assert float(values[0].grad) < 0 < float(values[1].grad)
    assert float(values[0].grad) == pytest.approx(-float(values[1].grad))


@pytest.mark.parametrize("loss_type", LOSSES)
def test_gradients_by_finite_differences(loss_type: str) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(4, 5, generator=generator, dtype=torch.float64)[i] for i in range(4)]
    preference = torch.rand(5, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    settings = {"beta": 0.7, "loss_type": loss_type, "label_smoothing": 0.05, "preference": preference}

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return preference_loss(*values, **settings).loss

    leaves = [x.clone().requires_grad_() for x in parts]
    loss(*leaves).backward()
    for side, leaf in enumerate(leaves):
        for row in range(5):
            up, down = ([x.clone() for x in parts] for _ in range(2))
            up[side][row] += 1e-5
            down[side][row] -= 1e-5
            expected = float(loss(*up) - loss(*down)) / 2e-5
            assert float(leaf.grad[row]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("loss_type", [name for name in LOSSES if name != "exo"])
def test_a_soft_label_is_the_mean_over_both_labels(loss_type: str) -> None:
    a, b, c, d = (torch.tensor([x]) for x in (-1.0, -2.5, -2.0, -1.5))

    def loss(*sides: torch.Tensor, **settings: object) -> float:
        return float(preference_loss(*sides, beta=0.3, loss_type=loss_type, **settings).loss)

    mixed = 0.7 * loss(a, b, c, d) + 0.3 * loss(b, a, d, c)
    assert loss(a, b, c, d, preference=torch.tensor([0.7])) == pytest.approx(mixed)
    assert loss(a, b, c, d, preference=torch.tensor([0.7])) != pytest.approx(loss(a, b, c, d))


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust", "exo"])
def test_soft_labels_are_optimal_at_the_margin(loss_type: str) -> None:
    """P(chosen better) = sigmoid(d) asks for beta h = d: the implicit reward is the reward, up to a constant per prompt."""
    difference = torch.tensor([1.3], dtype=torch.float64)
    h = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    for _ in range(400):
        smoothing = 0.2 if loss_type == "robust" else 0.0  # robust with e expects labels that were flipped with e
        label = difference.sigmoid() * (1 - smoothing) + (1 - difference.sigmoid()) * smoothing
        loss = preference_loss(
            h, zero, zero, zero, beta=0.5, loss_type=loss_type, preference=label, label_smoothing=smoothing
        ).loss
        (slope,) = torch.autograd.grad(loss, h)
        h = (h - 4.0 * slope).detach().requires_grad_()
    assert 0.5 * float(h.detach()) == pytest.approx(1.3, abs=1e-3)


def test_loss_is_a_mean_over_pairs() -> None:
    short, long = (
        [torch.tensor([x]) for x in (-1.0, -2.0, -1.5, -1.8)],
        [torch.tensor([x]) for x in (-90.0, -95.0, -91.0, -93.0)],
    )
    both = [torch.cat(x) for x in zip(short, long, strict=True)]
    each = [float(preference_loss(*x, beta=0.1).loss) for x in (short, long)]
    assert float(preference_loss(*both, beta=0.1).loss) == pytest.approx(sum(each) / 2)


def test_extreme_margins_stay_finite() -> None:
    for loss_type in LOSSES:
        for h in (-1e4, 1e4):
            assert math.isfinite(at(h, loss_type, label_smoothing=0.1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "sigmoyd"}, 'no preference loss "sigmoyd"; did you mean "sigmoid"'),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5"),
        ({"loss_type": "exo"}, "give label_smoothing, or soft labels"),
        ({"loss_type": "sppo", "target_margin": 1.0}, "leave out target_margin"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        at(0.0, **settings)
    assert message in str(caught.value)


def test_kto() -> None:
    """beta .5, log-ratios 4 and -2, reference point 1: r - z = 1 and -2."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    logps, reference = torch.tensor([1.0, -5.0], requires_grad=True), torch.tensor([-3.0, -3.0])
    good = torch.tensor([1.0, 0.0])
    settings = {"beta": 0.5, "reference_point": 1.0}
    losses = kto_loss(logps, reference, good, **settings)
    assert losses.tolist() == pytest.approx([1 - sigmoid(1), 1 - sigmoid(2)])
    losses.sum().backward()
    # A good completion's likelihood goes up, a bad one's down: d/dx (1 - sigmoid(x)) = -sigmoid(x) sigmoid(-x).
    assert logps.grad.tolist() == pytest.approx([-0.5 * sigmoid(1) * sigmoid(-1), 0.5 * sigmoid(2) * sigmoid(-2)])
    weighted = kto_loss(logps, reference, good, **settings, desirable_weight=2.0, undesirable_weight=3.0)
    assert weighted.tolist() == pytest.approx([2 * (1 - sigmoid(1)), 3 * (1 - sigmoid(2))])
    swapped = kto_loss(logps, reference, 1 - good, **settings)
    assert swapped.tolist() == pytest.approx([sigmoid(1), 1 - sigmoid(-2)])
