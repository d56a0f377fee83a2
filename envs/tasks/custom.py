"""The task that users declare: any causal language model, any prompts, any reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.rewards.resolve import make_reward
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.prompts import load_prompts
from bakeoff.errors import ConfigError

RewardSpec = str | Mapping[str, Any] | Callable[..., Any]
"""A registered reward's name, a mapping with ``name`` and its settings, or a function with TRL's signature."""


def custom(
    *,
    model: str,
    prompts: str,
    reward: RewardSpec,
    evaluation_prompts: str | None = None,
    evaluation_fraction: float = 0.2,
    gold: RewardSpec | None = None,
    max_new_tokens: int = 24,
    kl_coef: float = 0.1,
    chat: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
) -> Task:
    """A task from its parts.

    Args:
        model: a folder, a ``.gguf`` file, ``package:NAME`` for a Python package that carries one, or a hub id.
        prompts: a ``.txt`` file with one prompt per line, or ``.jsonl`` with a key ``prompt``; relative to where you run.
        reward: what is optimized.
        evaluation_prompts: a second file; where there is none, a share of the first is held back.
        evaluation_fraction: that share.
        gold: a reward that judges and is never optimized.
        max_new_tokens: length limit of a completion.
        kl_coef: beta, in reward units per nat.
        chat: wrap each prompt in the model's chat template.
        device: where the model runs.
        dtype: what it computes in.

    Raises:
        ConfigError, PromptError, ModelError, NotFoundError: a part that cannot be used, and why.
    """
    check_numbers(max_new_tokens, kl_coef)
    held_back = None if evaluation_prompts is None else Path(evaluation_prompts)
    prompt_set = load_prompts(Path(prompts), held_back, evaluation_fraction=evaluation_fraction)
    _, proxy = make_reward(reward)
    judge = None if gold is None else make_reward(gold)[1]
    language_model = LanguageModel.load(model, device=device, dtype=dtype, chat=chat)
    settings = {"model": model, "prompts": prompts, "reward": reward, "evaluation_prompts": evaluation_prompts}
    return Task("custom", language_model, prompt_set, proxy, max_new_tokens, kl_coef, judge, settings=settings)


def check_numbers(max_new_tokens: int, kl_coef: float) -> None:
    """Refuse a length limit below 1 or a negative KL coefficient."""
    problems = []
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        problems.append(f"max_new_tokens is {max_new_tokens!r}, expected a whole number from 1")
    if isinstance(kl_coef, bool) or not isinstance(kl_coef, int | float) or not 0 <= kl_coef < float("inf"):
        problems.append(f"kl_coef is {kl_coef!r}, expected a number from 0")
    if problems:
        raise ConfigError("task", problems)
