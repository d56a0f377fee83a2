"""How good a reward model is on pairs that it has not seen: accuracy with an interval, floors, calibration.

Pure functions of score differences d = r(chosen) - r(rejected); sigmoid(d) is the model's probability that the chosen answer
wins (Bradley and Terry 1952).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from bakeoff.envs.preferences.pair import PreferencePair
from bakeoff.envs.rewards.answer_text import plain_text

FloatArray = npt.NDArray[np.float64]

_Z95 = 1.959963984540054
_RESAMPLES = 2000


@dataclass(frozen=True)
class Accuracy:
    """A share of pairs in the right order, ties one half, with a 95 % interval."""

    value: float
    """The share."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    pairs: int
    """How many pairs."""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Bin:
    """Pairs about which the model is alike sure."""

    confidence: float
    """Mean probability of the answer that the model prefers."""
    accuracy: float
    """How often that answer is the chosen one."""
    pairs: int
    """How many."""


def accuracy(differences_N: FloatArray, pairs: Sequence[PreferencePair], seed: int = 0) -> Accuracy:
    """Share of pairs whose chosen answer scores higher.

    The interval is Wilson's (1927) where every pair has a prompt of its own; else a bootstrap over prompts, since
    pairs of one prompt are right or wrong together.
    """
    right_N = (np.sign(differences_N) + 1) / 2
    value = float(right_N.mean())
    groups = {prompt: row for row, prompt in enumerate(dict.fromkeys(pair.prompt for pair in pairs))}
    if len(groups) == len(right_N):
        return Accuracy(value, *wilson(value, len(right_N)), len(right_N))
    group_N = np.array([groups[pair.prompt] for pair in pairs])
    right_G = np.bincount(group_N, right_N, len(groups))
    count_G = np.bincount(group_N, minlength=len(groups))
    drawn = np.random.default_rng(seed).integers(len(groups), size=(_RESAMPLES, len(groups)))
    shares = right_G[drawn].sum(1) / count_G[drawn].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Accuracy(value, float(low), float(high), len(right_N))


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of ``count`` independent cases (Wilson 1927)."""
    spread = _Z95**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z95 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return middle - half, middle + half


def log_loss(differences_N: FloatArray) -> float:
    """Mean of -log sigmoid(d), in nats; ln 2 = .693 for a coin."""
    return float(np.logaddexp(0, -differences_N).mean())


def reliability(differences_N: FloatArray, bins: int = 10) -> list[Bin]:
    """Confidence against accuracy in bins of equal width from .5 to 1; empty ones are left out."""
    confidence_N = expit(np.abs(differences_N))
    right_N = (np.sign(differences_N) + 1) / 2
    place_N = np.minimum(((confidence_N - 0.5) * 2 * bins).astype(int), bins - 1)
    found = []
    for place in range(bins):
        inside = place_N == place
        if inside.any():
            found.append(Bin(float(confidence_N[inside].mean()), float(right_N[inside].mean()), int(inside.sum())))
    return found


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean gap between confidence and accuracy over the bins, weighted by their pairs (Naeini et al. 2015)."""
    total = sum(one.pairs for one in bins)
    return sum(one.pairs * abs(one.confidence - one.accuracy) for one in bins) / total


def floors(pairs: Sequence[PreferencePair]) -> dict[str, Accuracy]:
    """What rules that read no meaning reach: a reward model has to beat all of them."""
    longer_N = np.array([float(len(pair.chosen) - len(pair.rejected)) for pair in pairs])
    similar_N = np.array([_overlap(pair, pair.chosen) - _overlap(pair, pair.rejected) for pair in pairs])
    return {
        "longer wins": accuracy(longer_N, pairs),
        "shorter wins": accuracy(-longer_N, pairs),
        "most similar to the prompt": accuracy(similar_N, pairs),
    }


def _overlap(pair: PreferencePair, answer: str) -> float:
    """Share of the answer's distinct words that the prompt has too."""
    words = set(answer.lower().split())
    return len(words & set(plain_text(pair.prompt).lower().split())) / max(1, len(words))
