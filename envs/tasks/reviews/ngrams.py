"""Words, and pairs of neighboring words, as sparse features: what the judge and the proxies read of a review."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[.,!?;:()\"-]")
_SPOKEN = re.compile(r"[a-z0-9!?]")


def words_of(text: str) -> list[str]:
    """Lower-cased words and punctuation marks of a text, in order; a word keeps its apostrophe (``don't``)."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """N-gram features: sublinear TF-IDF, each text scaled to length 1.

    An n-gram is one word or two adjacent words; punctuation is left out but for ``!`` and ``?``. A feature is
    (1 + ln count) * idf, idf = 1 + ln((1 + texts) / (1 + texts with it)).
    """

    ngrams: tuple[str, ...]
    """A pair has a space between its words."""
    idf_V: npt.NDArray[np.float32]
    """Inverse document frequencies, shape (V,)."""
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {ngram: i for i, ngram in enumerate(self.ngrams)})

    def __len__(self) -> int:
        return len(self.ngrams)

    @classmethod
    def count(cls, texts: Sequence[Sequence[str]], least: int = 3) -> Vocabulary:
        """N-grams that at least ``least`` of the texts (each its words) have; so no sentence can be read off them."""
        seen = Counter(ngram for words in texts for ngram in set(_ngrams(words)))
        kept = sorted(ngram for ngram, count in seen.items() if count >= least)
        idf_V = np.array([1 + math.log((1 + len(texts)) / (1 + seen[ngram])) for ngram in kept], np.float32)
        return cls(tuple(kept), idf_V)

    def features(self, texts: Sequence[Sequence[str]]) -> sparse.csr_matrix:
        """Feature rows of texts given as words, shape (texts, V); a text without any known n-gram is a row of zeros."""
        columns: list[int] = []
        values: list[float] = []
        starts = [0]
        for words in texts:
            counts: dict[int, int] = {}
            for ngram in _ngrams(words):
                place = self._index.get(ngram)
                if place is not None:
                    counts[place] = counts.get(place, 0) + 1
            row = [(1 + math.log(count)) * float(self.idf_V[place]) for place, count in counts.items()]
            norm = math.sqrt(sum(value * value for value in row)) or 1.0
            columns.extend(counts)
            values.extend(value / norm for value in row)
            starts.append(len(columns))
        shape = (len(texts), len(self))
        return sparse.csr_matrix((np.array(values), np.array(columns, np.int64), np.array(starts)), shape=shape)


def _ngrams(words: Sequence[str]) -> list[str]:
    spoken = [word for word in words if _SPOKEN.match(word)]
    return spoken + [f"{a} {b}" for a, b in itertools.pairwise(spoken)]
