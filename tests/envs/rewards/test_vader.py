"""Our way of calling VADER changes no score."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest
from vaderSentiment import vaderSentiment as vs

from bakeoff.envs.rewards.vader import compound_scorer

SPECIAL = [
    *vs.NEGATE, *vs.BOOSTER_DICT, *vs.SPECIAL_CASES,
    "but", "BUT", "no", "No", "nor", "or", "least", "at", "very", "kind", "of", "never", "so", "this", "without", "doubt",
    "the", "film", "was", "it", "I", ":)", ":(", "!", "!!", "?", "??", "????", "...", "-", "😀", "💋", "", "\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def analyzer():
    return vs.SentimentIntensityAnalyzer()


def word_salad(analyzer, count: int, seed: int) -> list[str]:
    """Texts that meet every rule far more often than real ones do."""
    rng = random.Random(seed)
    lexicon = list(analyzer.lexicon)
    favorites = rng.sample(lexicon, 40)
    texts = []
    for _ in range(count):
        words = []
        for _ in range(rng.randrange(14)):
            source = rng.choice([SPECIAL, SPECIAL, favorites, lexicon])
            word = rng.choice(source)
            word = rng.choice(
                [word, word, word, word.upper(), word.capitalize(), f"({word})", word + rng.choice(",.!?")]
            )
            words.append(word)
        texts.append(rng.choice([" ", " ", "  ", "\t"]).join(words))
    return texts


def test_every_score_is_the_packages_own(analyzer):
    compound = compound_scorer()
    for text in word_salad(analyzer, 4000, seed=0):
        assert compound(text) == analyzer.polarity_scores(text)["compound"], text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "good",
        "GOOD film",
        "GOOD",
        "not good!!!",
        "the bomb",
        "kind of good",
        "no good or bad",
        "good but bad",
        "😀 good",
        "?" * 9,
    ],
)
def test_edges(analyzer, text):
    assert compound_scorer()(text) == analyzer.polarity_scores(text)["compound"]


@pytest.mark.slow
def test_real_text_too(analyzer):
    folder = os.environ.get("BAKEOFF_TEST_DATA")
    path = Path(folder) / "hh-harmless" / "pairs-1200.jsonl.gz" if folder else None
    if path is None or not path.is_file():
        pytest.skip("BAKEOFF_TEST_DATA names no folder with hh-harmless in it")
    compound = compound_scorer()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in list(lines)[:300]:
            text = json.loads(line)["chosen"]
            assert compound(text) == analyzer.polarity_scores(text)["compound"]
