"""The task ``reviews``: a tiny model trained on human-rated reviews goes on from an opening; VADER scores the sentence."""

from __future__ import annotations

from pathlib import Path

from bakeoff.envs.custom import check_numbers
from bakeoff.envs.language_model import LanguageModel
from bakeoff.envs.prompts import PromptSet
from bakeoff.envs.reviews.openings import EVALUATION_OPENINGS, TRAIN_OPENINGS
from bakeoff.envs.reviews.skills import continue_prompt
from bakeoff.envs.rewards import vader
from bakeoff.envs.tasks import Task

MODEL = Path(__file__).parent / "model"
"""The model that the package ships; ``bakeoff.envs.reviews.pretrain`` makes it."""


def reviews(*, kl_coef: float = 0.05, max_new_tokens: int = 24, device: str = "cpu") -> Task:
    """Alignment in a minute on a laptop.

    Args:
        kl_coef: beta, in VADER units (the score goes from -1 to 1) a nat.
        max_new_tokens: length limit of a completion.
        device: where the model runs.
    """
    check_numbers(max_new_tokens, kl_coef)
    model = LanguageModel.load(MODEL, device=device)
    model.name = "bakeoff/reviews"  # where the package is installed is nobody's business
    return Task(
        name="reviews",
        language_model=model,
        prompts=PromptSet(
            train=tuple(map(continue_prompt, TRAIN_OPENINGS)),
            evaluation=tuple(map(continue_prompt, EVALUATION_OPENINGS)),
        ),
        reward=vader(),
        max_new_tokens=max_new_tokens,
        kl_coef=kl_coef,
        settings={"kl_coef": kl_coef, "max_new_tokens": max_new_tokens},
    )
