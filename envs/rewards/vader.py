"""VADER's compound sentiment, each score the one that the package computes, in a fraction of its time.

Nearly all of its time goes into lower-casing the whole text again and again, for every word of sentiment. That word's valence
depends on the three words before it and the two behind it, so we hand the package that window alone, and remember the answer.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from bakeoff.envs.rewards.call import Reward

_BEFORE, _BEHIND = 3, 2
_CACHED = 100_000


@dataclass(frozen=True)
class Vader:
    """Sentiment of the text by VADER's compound score, from -1 to 1 (Hutto and Gilbert 2014)."""

    name: ClassVar[str] = "vader"
    with_prompt: bool = True
    """Score prompt and completion as one text; the prompt opens the sentence that the completion ends."""

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """The compound score of each text."""
        compound = compound_scorer()
        texts = [p + c for p, c in zip(prompts, completions, strict=True)] if self.with_prompt else completions
        return [compound(text) for text in texts]


def vader(with_prompt: bool = True) -> Reward:
    """VADER's compound sentiment, of prompt and completion together or of the completion alone."""
    return Vader(with_prompt)


class _Word(NamedTuple):
    text: str
    """Without the punctuation around it, as VADER strips it."""
    lower: str
    capitals: bool
    has_valence: bool
    """It is in the lexicon, and no booster."""


class _Window(NamedTuple):
    """What the package's ``sentiment_valence`` reads of a text."""

    words_and_emoticons: list[str]
    is_cap_diff: bool


@functools.cache
def compound_scorer() -> Callable[[str], float]:
    """Text to compound score; the lexicon is read once in a process."""
    package: Any = importlib.import_module("vaderSentiment.vaderSentiment")
    analyzer = package.SentimentIntensityAnalyzer()
    emojis = frozenset(analyzer.emojis)

    @functools.lru_cache(_CACHED)
    def word_of(token: str) -> _Word:
        text = package.SentiText._strip_punc_if_word(token)
        lower = text.lower()
        return _Word(text, lower, text.isupper(), lower in analyzer.lexicon and lower not in package.BOOSTER_DICT)

    @functools.lru_cache(_CACHED)
    def valence_of(window: tuple[str, ...], place: int, some_capitals: bool) -> float:
        found: list[float] = analyzer.sentiment_valence(
            0, _Window(list(window), some_capitals), window[place], place, []
        )
        return found[0]

    def compound(text: str) -> float:
        if not emojis.isdisjoint(text):
            return float(analyzer.polarity_scores(text)["compound"])
        words = [word_of(token) for token in text.split()]
        places = [
            place
            for place, word in enumerate(words)
            if word.has_valence
            and not (word.lower == "kind" and [w.lower for w in words[place + 1 : place + 2]] == ["of"])
        ]
        if not places:
            return 0.0
        capitals = sum(word.capitals for word in words)
        some_capitals = 0 < capitals < len(words)
        valences: list[float] = [0] * len(words)
        for place in places:
            start = max(0, place - _BEFORE)
            window = tuple(word.text for word in words[start : place + 1 + _BEHIND])
            valences[place] = valence_of(window, place - start, some_capitals)
        if any(word.lower == "but" for word in words):
            valences = analyzer._but_check([word.text for word in words], valences)
        total = float(sum(valences))
        if total:
            emphasis = analyzer._punctuation_emphasis(text.strip())
            total += emphasis if total > 0 else -emphasis
        return float(round(package.normalize(total), 4))

    return compound
