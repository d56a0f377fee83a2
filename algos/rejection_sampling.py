"""Rejection sampling fine-tuning: best of n, then supervised on the winners, again and again (RAFT: Dong et al. 2023).

Each round samples n completions per prompt from the current policy, keeps the best of each group, and raises the
likelihood of those. Where the winner is chosen by reward - beta * log(pi/ref), the rounds come to rest at the optimum of
the objective, where all completions are equally good; by reward alone they never do, and the policy keeps narrowing.

Departures from the paper: it trains on the winners of several thousand completions at a time, here of one batch; and
its default chooses by the reward (`rank_by: reward`), with the penalty as an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt

from bakeoff.algos.best_of_n import best_of_each
from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import check_groups, collect, minibatch_rows
from bakeoff.algos.preference_data.sft_step import imitate
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class RejectionSamplingConfig(AlgorithmConfig):
    """Settings of rejection sampling fine-tuning."""

    n: int = Field(default=8, ge=2)
    """Completions of each prompt, of which one is kept; `batch_size` is a multiple of it."""
    rank_by: Literal["objective", "reward"] = "objective"
    """The best has the highest reward - beta * log(pi/ref) (`objective`), or the highest `reward`."""
    epochs: PositiveInt = 4
    """Passes over the winners of each batch."""


class RejectionSampling(Algorithm):
    """Best of n, then supervised fine-tuning on the winners, iterated."""

    Config = RejectionSamplingConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    stays_without_signal: ClassVar[bool] = False
    config: RejectionSamplingConfig

    def __init__(
        self, config: RejectionSamplingConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        check_groups("rejection_sampling", config.batch_size, "n", config.n)
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=envs.planned_updates
        )

    def update(self) -> Mapping[str, float]:
        """Collect groups, keep the best of each, imitate those for a few epochs."""
        self.optimizer.start_update(self.envs.progress)
        rollout = collect(self.policy, self.envs, self.rng, group_size=self.config.n)
        merits_B = rollout.returns_B(self.kl_coef) if self.config.rank_by == "objective" else rollout.scores_B
        best = rollout.select(best_of_each(merits_B, self.config.n))
        steps = [
            imitate(self.policy, self.optimizer, best.completions, rows)
            for rows in minibatch_rows(len(best), self.config.epochs, 1, self.rng)
        ]
        return {
            **rollout.metrics(self.kl_coef),
            **mean_metrics(steps),
            "best_reward": float(best.scores_B.mean()),
        }

    @property
    def queries_needed(self) -> int:
        """One group."""
        return self.config.n
