"""Preference pairs made on the spot: two answers of a policy to the same prompt, labeled by a reward.

The environment's own reward labels, so its meter counts the tokens and the queries. Under Bradley-Terry the better answer
wins with probability sigmoid((r_0 - r_1) / temperature), as people are modeled (Bradley and Terry 1952); deterministically
it always wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.preferences.pair import Pairs, PreferencePair
from bakeoff.envs.rewards.call import AnyReward
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import PreferenceError

Labels = Literal["bradley_terry", "deterministic"]
"""How a reward decides which answer is preferred."""

Sampler = Callable[..., Completions]
"""``(prompts, max_new_tokens, generator) -> Completions``, such as ``LanguageModel.sample``."""

_FRUITLESS_ROUNDS = 20


def preferred_B(first_B: Tensor, second_B: Tensor, generator: torch.Generator | None, temperature: float) -> Tensor:
    """True where the first answer is preferred under Bradley-Terry, shape (B,).

    Args:
        first_B: rewards of the first answers.
        second_B: rewards of the second answers.
        generator: draws the labels; None prefers the higher reward.
        temperature: in reward units; the smaller, the surer is the better one to win.
    """
    difference_B = first_B.double() - second_B.double()
    if generator is None:
        return difference_B > 0
    return torch.rand(difference_B.shape, generator=generator, dtype=torch.float64) < torch.sigmoid(
        difference_B / temperature
    )


def pairing_env(
    task: Task, num_envs: int = 64, *, reward: AnyReward | None = None, seed: int = 0
) -> TextGenerationVectorEnv:
    """A task's environment for making pairs, labeled by ``reward`` where that is another than the task's."""
    labeled = task if reward is None else _with_reward(task, reward)
    return TextGenerationVectorEnv.from_task(labeled, num_envs + num_envs % 2, seed=seed)


def make_pairs(
    sample: Sampler,
    envs: TextGenerationVectorEnv,
    count: int,
    generator: torch.Generator,
    *,
    labels: Labels = "bradley_terry",
    temperature: float = 1.0,
    margins: bool = False,
) -> Pairs:
    """Pairs of a policy's own answers, until there are ``count``, or the environment's budget is spent.

    Equal answers make no pair, nor do equal rewards where labels are deterministic.

    Args:
        sample: draws completions, such as ``policy.sample`` or ``LanguageModel.sample``.
        envs: plays them; its reward labels, its meter counts. Needs an even number of sub-environments.
        count: how many pairs.
        generator: draws the completions and the labels.
        labels: ``bradley_terry`` or ``deterministic``.
        temperature: of Bradley-Terry, in reward units.
        margins: keep the difference of rewards as each pair's margin (negative where Bradley-Terry chose the worse one).

    Raises:
        PreferenceError: a setting out of its range, or no pair in many rounds: the policy always says the same, or the
            reward scores everything alike.
    """
    if count < 1 or envs.num_envs % 2 or not temperature > 0 or labels not in ("bradley_terry", "deterministic"):
        raise PreferenceError(
            f"cannot make {count} pairs with {envs.num_envs} sub-environments, labels {labels!r} and temperature "
            f"{temperature}; expected a count from 1, an even number of them, bradley_terry or deterministic, and a "
            "temperature above 0"
        )
    pairs: list[PreferencePair] = []
    same_texts = ties = fruitless = 0
    while len(pairs) < count and not (envs.budget is not None and envs.budget.exhausted(envs.meter)):
        envs.reset(options={"group_size": 2})
        played = envs.play(sample(envs.prompt_batch, envs.max_new_tokens, generator))
        rewards_N2 = played.rewards_B.cpu().reshape(-1, 2)
        draws = generator if labels == "bradley_terry" else None
        first_wins_N = preferred_B(rewards_N2[:, 0], rewards_N2[:, 1], draws, temperature).tolist()
        before = len(pairs)
        for row, first_wins in enumerate(first_wins_N):
            won, lost = (2 * row, 2 * row + 1) if first_wins else (2 * row + 1, 2 * row)
            if played.texts[won].strip() == played.texts[lost].strip():
                same_texts += 1
            elif draws is None and rewards_N2[row, 0] == rewards_N2[row, 1]:
                ties += 1
            else:
                margin = float(played.rewards_B[won] - played.rewards_B[lost]) if margins else None
                pairs.append(PreferencePair(played.prompts[won], played.texts[won], played.texts[lost], margin))
        fruitless = 0 if len(pairs) > before else fruitless + 1
        if fruitless == _FRUITLESS_ROUNDS:
            raise PreferenceError(
                f"no pair in {fruitless} rounds ({same_texts} times both answers were equal, {ties} times reward "
                f'"{envs.rules.reward_name}" scored them alike); take a reward that tells answers apart, or other prompts'
            )
    return Pairs(pairs[:count], f"{count} pairs by {envs.rules.reward_name}")


def _with_reward(task: Task, reward: AnyReward) -> Task:
    import dataclasses

    return dataclasses.replace(task, reward=reward)
