"""Preference models that learned from a limited number of comparisons: the rewards of ``reviews-proxy-500``, ``-2k``, ``-8k``.

Bradley and Terry's model, linear in the n-grams of the text. Each comparison is of two human-rated sentences whose ratings
are more than 1 apart; people's ratings say which is preferred. The fewer comparisons, the more the model is wrong about,
and the more there is to exploit. Five further members of each size, fitted to bootstrap resamples of the *same*
comparisons, make an ensemble: it knows no more, but where its members disagree it can hold back (Coste et al. 2023).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from bakeoff.envs.rewards.call import AnyReward
from bakeoff.envs.tasks.reviews.judge import FOLDER, reviews_of, shipped_vocabulary
from bakeoff.envs.tasks.reviews.ngrams import Vocabulary, words_of
from bakeoff.errors import ConfigError

Size = Literal["500", "2k", "8k"]
Ensemble = Literal["none", "mean", "minimum", "mean_minus_deviation"]

SIZES: Final[dict[str, int]] = {"500": 500, "2k": 2000, "8k": 8000}
"""The number of comparisons behind each preference model."""
ENSEMBLES: Final = ("none", "mean", "minimum", "mean_minus_deviation")
MEMBERS: Final = 5
"""Members of an ensemble."""


@dataclass(frozen=True)
class PreferenceProxy:
    """A reward: the log-odds by which the text would be preferred to an average human sentence, in standard deviations
    over human sentences, so that proxies of every size have the same scale."""

    name: str
    vocabulary: Vocabulary
    weights_MV: npt.NDArray[np.float64]
    """Weights of each member, each already on the common scale, shape (members, V)."""
    offsets_M: npt.NDArray[np.float64]
    """The mean score of human sentences, shape (members,)."""
    ensemble: Ensemble = "none"
    length_penalty: float = 0.0
    """Taken off for every token of the completion."""

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any
    ) -> list[float]:
        """One score a text; 0 is the average human sentence, 1 is a standard deviation above it."""
        features_NV = self.vocabulary.features([words_of(text) for text in reviews_of(prompts, completions)])
        scores_NM = features_NV @ self.weights_MV.T - self.offsets_M
        lengths_N = np.array([len(ids) for ids in completion_ids])
        scores_N: npt.NDArray[np.float64] = combine(scores_NM, self.ensemble) - self.length_penalty * lengths_N
        return [float(score) for score in scores_N]


def combine(scores_NM: npt.NDArray[np.float64], ensemble: Ensemble) -> npt.NDArray[np.float64]:
    """Scores of members (N, M) as one score per text, (N,)."""
    if ensemble == "minimum":
        return np.asarray(scores_NM.min(1))
    mean_N = scores_NM.mean(1)
    return np.asarray(mean_N - scores_NM.std(1) if ensemble == "mean_minus_deviation" else mean_N)


def reviews_proxy(comparisons: Size = "2k", ensemble: Ensemble = "none", length_penalty: float = 0.0) -> AnyReward:
    """A preference model learned from 500, 2k or 8k comparisons of human-rated reviews, or an ensemble of five of them."""
    problems = []
    if str(comparisons) not in SIZES:
        problems.append(f"comparisons is {comparisons!r}, expected one of {', '.join(SIZES)}")
    if ensemble not in ENSEMBLES:
        problems.append(f"ensemble is {ensemble!r}, expected one of {', '.join(ENSEMBLES)}")
    if isinstance(length_penalty, bool) or not isinstance(length_penalty, int | float) or not 0 <= length_penalty < 1e6:
        problems.append(f"length_penalty is {length_penalty!r}, expected a number from 0 (reward units per token)")
    if problems:
        raise ConfigError('reward "reviews_proxy"', problems)
    vocabulary, _ = shipped_vocabulary()
    weights_MV, offsets_M = _members(str(comparisons))
    chosen = slice(0, 1) if ensemble == "none" else slice(1, None)
    name = f"reviews_proxy_{comparisons}" + ("" if ensemble == "none" else f"_{ensemble}")
    return PreferenceProxy(name, vocabulary, weights_MV[chosen], offsets_M[chosen], ensemble, float(length_penalty))


@functools.cache
def _members(size: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights (1 + MEMBERS, V) and offsets of one size: first the model itself, then the ensemble's members."""
    numbers = load_file(FOLDER / "proxies.safetensors")
    return numbers[f"weights_{size}"].astype(np.float64), numbers[f"offsets_{size}"].astype(np.float64)
