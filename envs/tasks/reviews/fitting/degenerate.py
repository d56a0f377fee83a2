"""Degenerate texts to test a judge on: none of them was used to fit it.

Praise words come from VADER's lexicon, an independent source: the ones that its raters found most positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from bakeoff.envs.tasks.reviews.judge import Judge
from bakeoff.envs.tasks.reviews.ngrams import words_of

_WORDS = 12
"""Words of a made-up text."""


def vader_scores(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """VADER's compound score of each text."""
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts])


def praise(known: frozenset[str], least: float = 2.0) -> list[str]:
    """Words of at least this valence (of 4) in VADER's lexicon that are among the known ones, in alphabetical order."""
    lexicon: Mapping[str, float] = SentimentIntensityAnalyzer().lexicon
    return sorted(word for word, valence in lexicon.items() if valence >= least and word in known)


def degenerate_texts(
    sentences: Sequence[str], praised: Sequence[str], rng: np.random.Generator
) -> dict[str, list[str]]:
    """Kinds of degenerate text, one of each for every sentence.

    Args:
        sentences: what people wrote.
        praised: words of praise.
        rng: draws words and orders.
    """
    kinds: dict[str, list[str]] = {
        "one word of praise over and over": [],
        "words of praise in a row": [],
        "words of praise with commas": [],
        "a sentence that runs into praise": [],
        "words shuffled": [],
        "the sentence twice": [],
    }
    for sentence in sentences:
        words = sentence.split()
        many = [praised[i] for i in rng.integers(0, len(praised), _WORDS)]
        kinds["one word of praise over and over"].append(" ".join(many[:1] * _WORDS))
        kinds["words of praise in a row"].append(" ".join(many))
        kinds["words of praise with commas"].append(", ".join(many))
        kinds["a sentence that runs into praise"].append(" ".join([*words[:6], *many[:8]]))
        kinds["words shuffled"].append(" ".join(words[i] for i in rng.permutation(len(words))))
        kinds["the sentence twice"].append(f"{sentence} {sentence}")
    return kinds


def report(judge: Judge, sentences: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """What a judge makes of degenerate texts beside the sentences themselves.

    ``below`` is the share of texts that score lower than the sentence they stand beside, ``penalized`` the share that leave
    the human range.
    """
    praised = praise(frozenset(ngram for ngram in judge.vocabulary.ngrams if " " not in ngram))
    kinds = degenerate_texts(sentences, praised, np.random.default_rng(seed))
    human_N = judge.verdict([words_of(sentence) for sentence in sentences]).gold_N
    found: dict[str, Any] = {"human sentences": {"gold": float(human_N.mean())}, "words of praise": len(praised)}
    for kind, texts in kinds.items():
        verdict = judge.verdict([words_of(text) for text in texts])
        found[kind] = {
            "gold": float(verdict.gold_N.mean()),
            "rating_alone": float(verdict.ratings_N.mean()),
            "vader": float(vader_scores(texts[:300]).mean()),
            "below": float((verdict.gold_N < human_N).mean()),
            "penalized": float((verdict.excess_NF.sum(1) > 0).mean()),
        }
    return found
