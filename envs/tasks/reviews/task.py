"""The review tasks: a tiny model trained on human-rated reviews continues an opening, and a proxy scores the sentence.

All have the same model, prompts and gold judge; they differ in what is optimized: ``reviews`` in VADER, the
``reviews-proxy-*`` tasks in a preference model that learned from few comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.rewards.resolve import AnyReward, make_reward, vader
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.custom import check_numbers
from bakeoff.envs.tasks.prompts import PromptSet
from bakeoff.envs.tasks.reviews.openings import EVALUATION_OPENINGS, TRAIN_OPENINGS
from bakeoff.envs.tasks.reviews.proxy import Ensemble, Size, reviews_proxy
from bakeoff.envs.tasks.reviews.skills import continue_prompt

MODEL = Path(__file__).parent / "model"
"""The model that the package ships; ``bakeoff.envs.tasks.reviews.fitting.pretrain`` makes it."""

RewardSpec = str | Mapping[str, Any] | Callable[..., Any]
"""A registered reward's name, a mapping with ``name`` and its settings, or a function with TRL's signature."""


def reviews(
    *,
    kl_coef: float = 0.05,
    max_new_tokens: int = 24,
    gold: RewardSpec | None = "reviews_judge",
    device: str = "cpu",
) -> Task:
    """Alignment in a minute on a laptop.

    Args:
        kl_coef: beta, in VADER units (the score goes from -1 to 1) a nat.
        max_new_tokens: length limit of a completion.
        gold: a reward that judges and is never optimized; null for none.
        device: where the model runs.
    """
    settings = {"kl_coef": kl_coef, "max_new_tokens": max_new_tokens}
    return _reviews_task("reviews", vader(), kl_coef, max_new_tokens, gold, device, settings)


def reviews_proxy_500(
    *,
    kl_coef: float = 0.1,
    max_new_tokens: int = 24,
    ensemble: Ensemble = "none",
    length_penalty: float = 0.0,
    gold: RewardSpec | None = "reviews_judge",
    device: str = "cpu",
) -> Task:
    """The proxy is a preference model that learned from 500 comparisons.

    Args:
        kl_coef: beta, in standard deviations of the proxy over human sentences per nat.
        max_new_tokens: length limit of a completion.
        ensemble: ``none``, or five members fitted to resamples of the same comparisons and combined by ``mean``,
            ``minimum`` or ``mean_minus_deviation``.
        length_penalty: taken off the proxy for every token.
        gold: a reward that judges and is never optimized; null for none.
        device: where the model runs.
    """
    return _proxy_task("500", kl_coef, max_new_tokens, ensemble, length_penalty, gold, device)


def reviews_proxy_2k(
    *,
    kl_coef: float = 0.1,
    max_new_tokens: int = 24,
    ensemble: Ensemble = "none",
    length_penalty: float = 0.0,
    gold: RewardSpec | None = "reviews_judge",
    device: str = "cpu",
) -> Task:
    """The proxy is a preference model that learned from 2,000 comparisons; arguments as for ``reviews-proxy-500``."""
    return _proxy_task("2k", kl_coef, max_new_tokens, ensemble, length_penalty, gold, device)


def reviews_proxy_8k(
    *,
    kl_coef: float = 0.1,
    max_new_tokens: int = 24,
    ensemble: Ensemble = "none",
    length_penalty: float = 0.0,
    gold: RewardSpec | None = "reviews_judge",
    device: str = "cpu",
) -> Task:
    """The proxy is a preference model that learned from 8,000 comparisons; arguments as for ``reviews-proxy-500``."""
    return _proxy_task("8k", kl_coef, max_new_tokens, ensemble, length_penalty, gold, device)


def _proxy_task(
    size: Size,
    kl_coef: float,
    max_new_tokens: int,
    ensemble: Ensemble,
    length_penalty: float,
    gold: RewardSpec | None,
    device: str,
) -> Task:
    settings = {
        "kl_coef": kl_coef,
        "max_new_tokens": max_new_tokens,
        "ensemble": ensemble,
        "length_penalty": length_penalty,
    }
    reward = reviews_proxy(size, ensemble, length_penalty)
    return _reviews_task(f"reviews-proxy-{size}", reward, kl_coef, max_new_tokens, gold, device, settings)


def _reviews_task(
    name: str,
    reward: AnyReward,
    kl_coef: float,
    max_new_tokens: int,
    gold: RewardSpec | None,
    device: str,
    settings: dict[str, Any],
) -> Task:
    check_numbers(max_new_tokens, kl_coef)
    judge = None if gold is None else make_reward(gold)[1]
    model = LanguageModel.load(MODEL, device=device)
    model.name = "bakeoff/reviews"  # a name without the installation's path
    return Task(
        name=name,
        language_model=model,
        prompts=PromptSet(
            train=tuple(map(continue_prompt, TRAIN_OPENINGS)),
            evaluation=tuple(map(continue_prompt, EVALUATION_OPENINGS)),
        ),
        reward=reward,
        max_new_tokens=max_new_tokens,
        kl_coef=kl_coef,
        gold=judge,
        settings=settings
        | ({} if gold == "reviews_judge" else {"gold": gold if isinstance(gold, str | None) else str(gold)}),
    )
