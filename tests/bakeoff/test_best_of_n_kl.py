"""KL of best of n from tied scores: against the exact value of known laws, by hand and by simulation."""

import math

import numpy as np
import pytest

from bakeoff.best_of_n_kl import best_of_n_kl, tie_correction
from bakeoff.errors import UserError
from bakeoff.maths import best_of_n_kl_bound

LAWS = {
    "mostly one": [0.016, 0.984],
    "even": [0.5, 0.5],
    "rarely one": [0.9, 0.1],
    "three": [1 / 3] * 3,
    "ten": [0.1] * 10,
    "halving": [2.0**-7] + [2.0**-k for k in range(7, 0, -1)],  # shares of ties that are alike at every score
    "ties at the bottom": [0.5] + [0.5 / 500] * 500,
    "ties at the top": [0.5 / 500] * 500 + [0.5],
}


def exact_kl(law: list[float], n: int) -> float:
    """Sum of w ln(w / p), w = F^n - F-^n."""
    below, kl = 0.0, 0.0
    for p in law:
        w = (below + p) ** n - below**n
        kl += w * math.log(w / p) if w > 0 else 0.0
        below += p
    return kl


def test_exact_without_ties_and_where_all_tie() -> None:
    scores = np.random.default_rng(0).normal(size=64)
    for n in (1, 2, 8, 64):
        assert best_of_n_kl(scores, n) == pytest.approx(best_of_n_kl_bound(n), abs=1e-12)
        assert best_of_n_kl([3.0] * 64, n) == pytest.approx(0, abs=1e-12)


def test_the_correction_by_hand() -> None:
    # n = 2, s = 1/2: w of two halves is 1/4 and 3/4, KL = ln(1/2)/4 + 3 ln(3/2)/4. The lower half ties by itself, so its
    # correction is the bound, ln 2 - 1/2, and what is left belongs to the upper half.
    kl = math.log(1 / 2) / 4 + 3 / 4 * math.log(3 / 2)
    bound = math.log(2) - 1 / 2
    assert float(tie_correction(1.0, 2)) == pytest.approx(bound)
    assert float(tie_correction(0.5, 2)) == pytest.approx((bound - kl - bound / 4) / (3 / 4))
    assert float(tie_correction(1e-6, 8)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_correction_adds_up_to_the_kl(law: list[float], n: int) -> None:
    upto = np.cumsum(law)
    chances = upto**n - (upto - law).clip(0) ** n
    corrected = best_of_n_kl_bound(n) - chances @ tie_correction(np.minimum(law / upto, 1.0), n)
    assert corrected == pytest.approx(exact_kl(law, n), abs=1e-9)


@pytest.mark.parametrize("n", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_unbiased_from_samples(law: list[float], n: int) -> None:
    """Within the stated bias: .006 from eight samples on."""
    rng = np.random.default_rng(n)
    draws = rng.choice(len(law), (1_000, max(n, 8)), p=np.array(law) / sum(law))
    found = np.array([best_of_n_kl(scores, n) for scores in draws])
    noise = 4 * found.std() / len(found) ** 0.5  # exceeded in 1 of 16,000 tests
    assert abs(found.mean() - exact_kl(law, n)) <= noise + 0.006
    assert found.min() >= -1e-12
    assert found.max() <= best_of_n_kl_bound(n) + 1e-12


@pytest.mark.parametrize(("n", "most"), [(2, 0.0545), (3, 0.013), (4, 0.006), (8, 0.006), (16, 0.006), (64, 0.006)])
def test_bias_of_n_samples(n: int, most: float) -> None:
    """Exact, over the number of ties: scores of 0 with chance 1 - s, which never tie here, and of 1 with chance s."""
    samples = [best_of_n_kl([*range(-(n - tied), 0), *[1] * tied], n) for tied in range(n + 1)]
    worst = 0.0
    for s in np.linspace(0.01, 1, 100):
        chances = [math.comb(n, tied) * s**tied * (1 - s) ** (n - tied) for tied in range(n + 1)]
        won = 1 - (1 - s) ** n
        off = np.dot(chances, samples) - (best_of_n_kl_bound(n) - won * float(tie_correction(s, n)))
        worst = max(worst, abs(off) / won)
    assert worst <= most


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="best of 4 from 3 scores; n must be between 1 and 3"):
        best_of_n_kl([1, 2, 3], 4)
    with pytest.raises(UserError, match="best of 0"):
        best_of_n_kl([1, 2, 3], 0)
