"""Figures of a set of texts. Words are what whitespace separates, as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams, pooled over the texts; 0 where there are none.

    Distinct-n of Li et al. 2016. It falls as more texts are pooled, so only figures of equally many texts compare.
    """
    pooled = [gram for text in texts for gram in _ngrams(text.split(), n)]
    return len(set(pooled)) / len(pooled) if pooled else 0.0


def repetition(texts: Sequence[str], n: int = 2) -> float:
    """Share of a text's n-grams that it has had before, 1 - distinct/all, averaged over texts.

    Seq-rep-n of Welleck et al. 2020. A text of fewer than n words repeats nothing: 0.
    """
    shares = []
    for text in texts:
        grams = list(_ngrams(text.split(), n))
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return sum(shares) / len(shares) if shares else 0.0


def _ngrams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)
