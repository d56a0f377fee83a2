"""VADER's compound sentiment."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any, ClassVar

from bakeoff.envs.rewards.call import Reward


@dataclass(frozen=True)
class Vader:
    """Sentiment of the text by VADER's compound score, from -1 to 1 (Hutto and Gilbert 2014)."""

    name: ClassVar[str] = "vader"
    with_prompt: bool = True
    """Score prompt and completion as one text; the prompt opens the sentence that the completion ends."""

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """The compound score of each text."""
        texts = [p + c for p, c in zip(prompts, completions, strict=True)] if self.with_prompt else completions
        return [float(_analyzer().polarity_scores(text)["compound"]) for text in texts]


def vader(with_prompt: bool = True) -> Reward:
    """VADER's compound sentiment, of prompt and completion together or of the completion alone."""
    return Vader(with_prompt)


@functools.cache
def _analyzer() -> Any:
    """Made on first use, once in a process: it reads the lexicon."""
    return importlib.import_module("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()
