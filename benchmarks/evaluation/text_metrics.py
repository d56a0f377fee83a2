"""Figures of a set of texts. Words are what whitespace separates, as they are written."""

from __future__ import annotations

from collections.abc import Sequence

from bakeoff import text


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams, pooled over the texts; 0 where there are none.

    Distinct-n of Li et al. 2016. It falls as more texts are pooled, so only figures of equally many texts compare.
    """
    pooled = [gram for one in texts for gram in text.ngrams(one, n)]
    return len(set(pooled)) / len(pooled) if pooled else 0.0


def mean_repetition(texts: Sequence[str], n: int = 2) -> float:
    """Share of a text's n-grams that it has had before, averaged over texts (see :func:`bakeoff.text.repetition`)."""
    shares = [text.repetition(one, n) for one in texts]
    return sum(shares) / len(shares) if shares else 0.0
