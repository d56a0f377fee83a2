"""The tasks ``exact`` and ``exact-sparse``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from bakeoff.envs.language_model.completions import PromptBatch
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.exact.enumeration import Enumeration
from bakeoff.envs.tasks.exact.rewards import TableReward, dense_rewards, exact_seed, sparse_rewards
from bakeoff.envs.tasks.exact.tree import CompletionTree
from bakeoff.envs.tasks.prompts import PromptSet

MODEL = Path(__file__).parent / "model"
"""The reference that the package ships; ``bakeoff.envs.tasks.exact.pretrain`` makes it."""
PROMPTS = ("a b", "c d", "e f", "g a")
"""All of two tokens, so nothing is padded."""
MAX_NEW_TOKENS = 5
"""With seven words and an end token: 19,608 completions of each prompt."""


def exact(kl_coef: float = 0.3, reward_seed: int = 0) -> Task:
    """Every completion enumerated, the reward spread over tokens and pairs of adjacent tokens.

    Args:
        kl_coef: beta, in reward units per nat; one reward unit is the reward's standard deviation under the reference.
        reward_seed: draws another reward of the same kind.

    Raises:
        UserError: kl_coef is negative or not finite.
    """
    generator = exact_seed(reward_seed, "dense")
    return _task(
        "exact",
        kl_coef,
        lambda tree, reference, prompts: dense_rewards(tree, reference, prompts, generator),
        {"kl_coef": kl_coef, "reward_seed": reward_seed},
    )


def exact_sparse(kl_coef: float = 0.3, reward_seed: int = 0, bonus: float = 3.0, dense_weight: float = 0.3) -> Task:
    """Every completion enumerated, the reward mostly a bonus for three words in order that the reference rarely says.

    Args:
        kl_coef: beta, in reward units per nat.
        reward_seed: draws other words and another faint dense reward.
        bonus: what the three words are worth.
        dense_weight: standard deviation of the dense part under the reference.

    Raises:
        UserError: kl_coef is negative or not finite.
    """
    generator = exact_seed(reward_seed, "sparse")
    return _task(
        "exact-sparse",
        kl_coef,
        lambda tree, reference, prompts: sparse_rewards(
            tree, reference, prompts, generator, bonus=bonus, dense_weight=dense_weight
        ),
        {"kl_coef": kl_coef, "reward_seed": reward_seed, "bonus": bonus, "dense_weight": dense_weight},
    )


def _task(
    name: str,
    kl_coef: float,
    rewards: Callable[[CompletionTree, Tensor, PromptBatch], Tensor],
    settings: dict[str, float],
) -> Task:
    language_model = LanguageModel.load(MODEL)
    language_model.name = "bakeoff/exact"  # a name without the installation's path
    prompts = language_model.pad(language_model.encode(PROMPTS))
    enumeration = Enumeration.of(
        language_model,
        prompts,
        lambda tree, reference: rewards(tree, reference, prompts),
        max_new_tokens=MAX_NEW_TOKENS,
        kl_coef=kl_coef,
    )
    return Task(
        name=name,
        language_model=language_model,
        # The same prompts to train and to evaluate on: the figures are exact over every completion, so there is nothing
        # left to generalize to, and no policy can look better than it is.
        prompts=PromptSet(train=PROMPTS, evaluation=PROMPTS, allow_overlap=True),
        reward=TableReward(language_model, enumeration.tree, PROMPTS, enumeration.rewards_QN),
        max_new_tokens=MAX_NEW_TOKENS,
        kl_coef=kl_coef,
        enumeration=enumeration,
        settings=settings,
    )
