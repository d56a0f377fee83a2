"""The gold reward of the review tasks: how people would rate a text, less a penalty where no person would write it.

    gold = max(-4, rating - 4 * excess)

``rating`` is a ridge regression on the human ratings of all sentences, held between -4 and 4. ``excess`` says how far the
text leaves the range of human sentences in surprise, cohesion, repetition, common words and strong words (see
:mod:`bakeoff.envs.tasks.reviews.fluency`); it is 0 for nearly all human text. Trained by
``python -m bakeoff.envs.tasks.reviews.fitting.fit_judges``; what it is worth is in docs/reviews-judge.md.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from bakeoff.envs.tasks.reviews.fluency import BigramModel, Fluency
from bakeoff.envs.tasks.reviews.ngrams import Vocabulary, words_of
from bakeoff.envs.tasks.reviews.skills import split_tag

FOLDER: Final = Path(__file__).parent / "judges"
"""The files that ``fit_judges`` wrote and the package ships."""
SCALE: Final = 4.0
"""Ratings go from -SCALE to SCALE."""
PENALTY: Final = 4.0
"""Rating points that one unit of excess costs, half the scale: it takes the best text down to an indifferent one."""


@dataclass(frozen=True)
class Verdict:
    """The judge's verdict on texts, part by part."""

    ratings_N: npt.NDArray[np.float64]
    """Predicted human rating, -4 to 4."""
    excess_NF: npt.NDArray[np.float64]
    """How far each figure of :data:`~bakeoff.envs.tasks.reviews.fluency.FIGURES` leaves the human range."""

    @property
    def gold_N(self) -> npt.NDArray[np.float64]:
        """The score, -4 to 4."""
        gold: npt.NDArray[np.float64] = np.maximum(-SCALE, self.ratings_N - PENALTY * self.excess_NF.sum(1))
        return gold


@dataclass(frozen=True)
class Judge:
    """A reward: the gold score of opening and completion as one review."""

    name: ClassVar[str] = "reviews_judge"
    vocabulary: Vocabulary
    weights_V: npt.NDArray[np.float64]
    """Rating points a unit of each feature."""
    intercept: float
    fluency: Fluency

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """The score of each text, -4 to 4."""
        texts = reviews_of(prompts, completions)
        return [float(gold) for gold in self.verdict([words_of(text) for text in texts]).gold_N]

    def verdict(self, texts: Sequence[Sequence[str]]) -> Verdict:
        """Rating and excess of texts that are given as words."""
        ratings_N = self.vocabulary.features(texts) @ self.weights_V + self.intercept
        return Verdict(np.clip(ratings_N, -SCALE, SCALE), self.fluency.excess(texts))

    def save(self, folder: Path) -> None:
        """Write ``judge.safetensors`` and ``judge.json`` into a folder; the vocabulary goes to ``vocabulary.json``."""
        model = self.fluency.model
        numbers = {
            "weights": self.weights_V.astype(np.float16),
            "idf": self.vocabulary.idf_V,
            "ranges": self.fluency.ranges_LFQ,
            "word_counts": model.counts_V.astype(np.int32),
            "pairs": model.pairs_P2.astype(np.uint16),
            "pair_counts": model.pair_counts_P.astype(np.uint16),
        }
        save_file({name: np.ascontiguousarray(value) for name, value in numbers.items()}, folder / "judge.safetensors")
        facts = {
            "intercept": self.intercept,
            "unknown_kinds": model.unknown_kinds,
            "strong_words": sorted(self.fluency.strong_words),
        }
        _write_json(folder / "judge.json", facts)
        _write_json(folder / "vocabulary.json", {"ngrams": self.vocabulary.ngrams, "words": model.words[2:]})


def reviews_of(prompts: Sequence[str], completions: Sequence[str]) -> list[str]:
    """Openings and completions as whole reviews, without the tag of the source."""
    return [split_tag(prompt + completion)[1] for prompt, completion in zip(prompts, completions, strict=True)]


@functools.cache
def shipped_vocabulary() -> tuple[Vocabulary, tuple[str, ...]]:
    """The n-grams that judge and proxies share, with their weights, and the words of the bigram model."""
    named: Mapping[str, Any] = json.loads((FOLDER / "vocabulary.json").read_text(encoding="utf-8"))
    idf_V = load_file(FOLDER / "judge.safetensors")["idf"]
    return Vocabulary(tuple(named["ngrams"]), idf_V), ("", "", *named["words"])


@functools.cache
def reviews_judge() -> Judge:
    """The predicted human rating of the review, less a penalty for degenerate text; -4 to 4."""
    vocabulary, words = shipped_vocabulary()
    facts: Mapping[str, Any] = json.loads((FOLDER / "judge.json").read_text(encoding="utf-8"))
    numbers = load_file(FOLDER / "judge.safetensors")
    pairs_P2 = numbers["pairs"].astype(np.int64)
    model = BigramModel(
        words,
        numbers["word_counts"].astype(np.int64),
        pairs_P2,
        numbers["pair_counts"].astype(np.int64),
        np.bincount(pairs_P2[:, 0], minlength=len(words)),
        int(facts["unknown_kinds"]),
    )
    fluency = Fluency(model, frozenset(facts["strong_words"]), numbers["ranges"])
    return Judge(vocabulary, numbers["weights"].astype(np.float64), float(facts["intercept"]), fluency)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n", encoding="utf-8")
