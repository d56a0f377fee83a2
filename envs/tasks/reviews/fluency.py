"""Does a text read like something that a person wrote? Five figures, each against the range of human sentences.

No example of bad text is used: improbable, repetitive or overloaded is what the sentences of the
corpus (hardly) ever are. The figures are

- the mean surprise of a word given the one before, by a bigram model with absolute discounting;
- cohesion: how much the word before helps, the mean pointwise mutual information of adjacent words;
- the share of repeated content words;
- the share of common words;
- the share of words with a strong sentiment.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FIGURES = ("surprise", "cohesion", "repetition", "common", "sentiment")
"""The figures of a text, in this order."""
BOUNDED_BELOW = ("cohesion", "common")
"""Figures that may be too low."""
BOUNDED_ABOVE = ("surprise", "repetition", "common", "sentiment")
"""Figures that may be too high."""
LENGTHS = (8, 12, 16, 22)
"""Upper ends, in words, of the length classes that have their own range; the last class is everything longer."""
_COMMON = 100
_DISCOUNT = 0.75


@dataclass(frozen=True)
class BigramModel:
    """Word pairs counted: p(w | v) = max(n(v w) - d, 0) / n(v) + d t(v) / n(v) p(w), t(v) kinds of words after v.

    Absolute discounting (Ney, Essen and Kneser 1994) over the unigram model. All words outside the vocabulary are one
    word whose probability is shared out over the kinds of them that were met.
    """

    words: tuple[str, ...]
    """The vocabulary, most frequent first; place 0 is the beginning of a text and 1 an unknown word, both written ``""``."""
    counts_V: npt.NDArray[np.int64]
    """How often each was met, shape (V,)."""
    pairs_P2: npt.NDArray[np.int64]
    """Places of both words of each pair that was met at least twice, shape (P, 2)."""
    pair_counts_P: npt.NDArray[np.int64]
    """How often, shape (P,)."""
    followers_V: npt.NDArray[np.int64]
    """How many kinds of pairs in ``pairs_P2`` begin with each word, shape (V,)."""
    unknown_kinds: int
    """How many kinds of words are outside the vocabulary."""
    _place: dict[str, int] = field(init=False, repr=False, compare=False)
    _pair: dict[tuple[int, int], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", {word: i for i, word in enumerate(self.words) if i > 1})
        pairs = (tuple(pair) for pair in self.pairs_P2.tolist())
        object.__setattr__(self, "_pair", dict(zip(pairs, self.pair_counts_P.tolist(), strict=True)))

    @classmethod
    def count(cls, texts: Sequence[Sequence[str]], least: int = 3) -> BigramModel:
        """Count texts (each its words); words that occur fewer than ``least`` times are unknown, pairs met once forgotten."""
        seen = Counter(word for words in texts for word in words)
        kept = [word for word, number in sorted(seen.items(), key=lambda item: (-item[1], item[0])) if number >= least]
        place = {word: i for i, word in enumerate(kept, start=2)}
        rows = [[0, *(place.get(word, 1) for word in words)] for words in texts]
        counts_V = np.bincount([i for row in rows for i in row], minlength=len(kept) + 2)
        met = Counter(pair for row in rows for pair in itertools.pairwise(row))
        pairs = sorted(pair for pair, number in met.items() if number >= 2)
        pairs_P2 = np.array(pairs, np.int64).reshape(-1, 2)
        followers_V = np.bincount(pairs_P2[:, 0], minlength=len(counts_V))
        pair_counts_P = np.array([met[pair] for pair in pairs], np.int64)
        return cls(("", "", *kept), counts_V, pairs_P2, pair_counts_P, followers_V, max(1, len(seen) - len(kept)))

    def places(self, words: Sequence[str]) -> list[int]:
        """Place of each word in the vocabulary; 1 for an unknown one."""
        return [self._place.get(word, 1) for word in words]

    def surprise(self, places: Sequence[int]) -> tuple[float, float]:
        """Mean nats per word given the one before, and by how much less that is than without it; of words given by their
        places. Zeros for an empty text."""
        if not places:
            return 0.0, 0.0
        surprise, alone, before = 0.0, 0.0, 0
        for place in places:
            base = self._base[place]
            kept, rest = 0.0, 1 - self._kept[before]
            met = self._pair.get((before, place))
            if met is not None:
                kept = (met - _DISCOUNT) / float(self.counts_V[before])
            surprise -= math.log(kept + rest * base)
            alone -= math.log(base)
            before = place
        unknown = math.log(self.unknown_kinds) * sum(place == 1 for place in places)
        return (surprise + unknown) / len(places), (alone - surprise) / len(places)

    @functools.cached_property
    def _base(self) -> list[float]:
        """Probability of each word by itself."""
        counts_V = np.maximum(self.counts_V, 1)
        return [float(count) for count in counts_V / counts_V[1:].sum()]

    @functools.cached_property
    def _kept(self) -> list[float]:
        """Share of each word's mass that stays with the pairs; the pairs met once were forgotten, so theirs does not."""
        mass_V = np.bincount(self.pairs_P2[:, 0], self.pair_counts_P, minlength=len(self.counts_V))
        return [float(share) for share in (mass_V - _DISCOUNT * self.followers_V) / np.maximum(self.counts_V, 1)]


@dataclass(frozen=True)
class Fluency:
    """The figures of a text, and by how much they leave the human range."""

    model: BigramModel
    """Says how surprising a word is, and which words are common."""
    strong_words: frozenset[str]
    """Words that say by themselves what a reader feels."""
    ranges_LFQ: npt.NDArray[np.float64]
    """Low end, median and high end of each figure among human sentences, by length class: (classes, figures, 3)."""

    def excess(self, texts: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        """How far texts leave the human range, (texts, figures): 0 inside; 1 is as far beyond an end as that end is
        from the median."""
        return beyond(figures(texts, self.model, self.strong_words), lengths_of(texts), self.ranges_LFQ)


def figures(
    texts: Sequence[Sequence[str]], model: BigramModel, strong_words: frozenset[str]
) -> npt.NDArray[np.float64]:
    """:data:`FIGURES` of each text, shape (texts, figures)."""
    rows = np.zeros((len(texts), len(FIGURES)))
    for row, words in enumerate(texts):
        places = model.places(words)
        spoken = [(word, place) for word, place in zip(words, places, strict=True) if word[0].isalnum()]
        if not spoken:
            continue
        content = [word for word, place in spoken if not 1 < place < 2 + _COMMON]
        rows[row] = (
            *model.surprise(places),
            (len(content) - len(set(content))) / len(spoken),
            1 - len(content) / len(spoken),
            sum(word in strong_words for word, _ in spoken) / len(spoken),
        )
    return rows


def lengths_of(texts: Sequence[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Length class of each text, shape (texts,)."""
    return np.searchsorted(np.array(LENGTHS), [len(words) for words in texts]).astype(np.int64)


def human_ranges(
    figures_NF: npt.NDArray[np.float64], lengths_N: npt.NDArray[np.int64], tail: float
) -> npt.NDArray[np.float64]:
    """Quantiles ``tail``, one half and 1 - ``tail`` of each figure within each length class: (classes, figures, 3).

    The ends are at least half as far from the median as they are over all lengths together: short sentences never repeat
    a word, say, and one repeated word is no catastrophe.
    """
    quantiles = [tail, 0.5, 1 - tail]
    all_FQ = np.quantile(figures_NF, quantiles, axis=0).T
    ranges = []
    for k in range(len(LENGTHS) + 1):
        low_F, middle_F, high_F = np.quantile(figures_NF[lengths_N == k], quantiles, axis=0)
        low_F = np.minimum(low_F, middle_F - 0.5 * (all_FQ[:, 1] - all_FQ[:, 0]))
        high_F = np.maximum(high_F, middle_F + 0.5 * (all_FQ[:, 2] - all_FQ[:, 1]))
        ranges.append(np.stack([low_F, middle_F, high_F], axis=1))
    return np.stack(ranges)


def beyond(
    figures_NF: npt.NDArray[np.float64], lengths_N: npt.NDArray[np.int64], ranges_LFQ: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """How far figures lie beyond their ranges, in units of the distance from the median to that end: (N, figures)."""
    low_NF, middle_NF, high_NF = np.moveaxis(ranges_LFQ[lengths_N], 2, 0)
    above_NF = np.maximum(figures_NF - high_NF, 0) / np.maximum(high_NF - middle_NF, 1e-3)
    below_NF = np.maximum(low_NF - figures_NF, 0) / np.maximum(middle_NF - low_NF, 1e-3)
    may_exceed_F = np.array([name in BOUNDED_ABOVE for name in FIGURES])
    may_fall_short_F = np.array([name in BOUNDED_BELOW for name in FIGURES])
    excess: npt.NDArray[np.float64] = above_NF * may_exceed_F + below_NF * may_fall_short_F
    return excess


def heaviest_words(weights: Mapping[str, float], most: int = 600) -> frozenset[str]:
    """The words of greatest absolute weight."""
    return frozenset(sorted(weights, key=lambda word: (-abs(weights[word]), word))[:most])
