"""Best of n: sample n completions from the reference, answer with the one of the highest reward.

It trains nothing and costs at inference: n completions and n reward queries per answer.
On an enumerable task its distribution is known exactly. Elsewhere its KL to the reference is reported as its analytic
upper bound ln n - (n - 1)/n, an equality when no two completions have the same reward (Beirami et al. 2024).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, Contestant, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.policy import Policy
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError
from bakeoff.maths import best_of_n_kl_bound

if TYPE_CHECKING:
    from bakeoff.envs.tasks.exact.enumeration import Enumeration


class BestOfNConfig(AlgorithmConfig):
    """Settings of best of n."""

    n: PositiveInt = 8
    """Completions sampled for each answer."""


class BestOfNSampler:
    """Answers with the best of n; a :class:`~bakeoff.algos.core.algorithm.Contestant`."""

    def __init__(self, policy: Policy, n: int) -> None:
        """Args:
        policy: gives the model to sample from.
        n: completions for each answer.
        """
        self._policy, self.n = policy, n

    def generate(self, envs: TextGenerationVectorEnv, generator: torch.Generator) -> Completions:
        """For each prompt the best of n completions by the env's reward; the first of them where several are best."""
        prompts = envs.prompt_batch.repeat_interleave(self.n)
        candidates = self._policy.sample(prompts, envs.max_new_tokens, generator)
        scores_B = torch.as_tensor(envs.score_completions(candidates))
        best = candidates.select(best_of_each(scores_B, self.n))
        return dataclasses.replace(best, logprobs_BT=None)  # those of the model, not of the best of n

    def statistics(self, completions: Completions) -> Mapping[str, Tensor]:
        """The analytic upper bound of the KL, the underlying model's entropy and likelihood at the chosen completions, and
        what an answer costs, each (B,)."""
        bound, price = (torch.full((len(completions),), value) for value in (best_of_n_kl_bound(self.n), float(self.n)))
        return {**self._policy.statistics(completions), "kl": bound, "queries_per_answer": price}

    def sequence_logprobs(self, enumeration: Enumeration) -> Tensor:
        """The exact distribution of the best of n over all completions, shape (prompts, N)."""
        return enumeration.best_of_n_logprobs(self.n)


def best_of_each(scores_B: Tensor, n: int) -> Tensor:
    """Row numbers of the best in each run of ``n`` consecutive rows, shape (B / n,)."""
    groups = scores_B.reshape(-1, n)
    return groups.argmax(1) + torch.arange(len(groups), device=groups.device) * n


class BestOfN(Algorithm):
    """Best of n as a contestant: one batch is generated and scored, so that its cost is counted; then the best of n answers."""

    Config = BestOfNConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    # n is what an answer costs, and nothing is trained.
    not_tuned: ClassVar[frozenset[str]] = frozenset({"n", "learning_rate"})
    config: BestOfNConfig

    def __init__(
        self, config: BestOfNConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        if config.batch_size % config.n:
            raise ConfigError("best_of_n", [f"batch_size {config.batch_size} is not a multiple of n {config.n}"])
        self.adopted = False

    def update(self) -> Mapping[str, float]:
        """Generate and score one batch of groups of n; from then on the best of n answers."""
        self.envs.begin_batch(self.config.n)
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        rewards_B = self.envs.play(completions).rewards_B
        self.adopted = True
        best_B = rewards_B[best_of_each(rewards_B, self.config.n)]
        return {
            "reward": float(best_B.mean()),
            "reward_of_all": float(rewards_B.mean()),
            "kl": best_of_n_kl_bound(self.config.n),
        }

    @property
    def queries_needed(self) -> int:
        """One group."""
        return self.config.n

    @property
    def finished(self) -> bool:
        """After one batch."""
        return self.adopted

    def contestant(self) -> Contestant:
        """The reference before the first update, then the best of n."""
        return BestOfNSampler(self.policy, self.config.n) if self.adopted else self.policy
