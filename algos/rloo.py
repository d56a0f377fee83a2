"""REINFORCE with a leave-one-out baseline (Kool et al. 2019; for language models Ahmadian et al. 2024).

Each prompt is completed several times; a completion's baseline is the mean return of the others. The whole completion
is one action, so the probability ratio is that of whole completions.

Departure from the papers: they take one step per batch; here a batch is used for two epochs, with a clip on the ratio that
grows with the completion's length. `epochs: 1, minibatches: 1` is their estimator exactly, since the ratio is 1 then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import GroupConfig, Rollout, check_groups, collect, kl_loss, minibatch_rows
from bakeoff.algos.losses.advantages import leave_one_out_advantages, masked_mean
from bakeoff.algos.losses.policy_gradient import sequence_surrogate, with_sample_size
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class RLOOConfig(GroupConfig):
    """RLOO's settings."""

    epochs: PositiveInt = 2
    """Passes over each batch of completions."""
    clip: float = Field(default=0.4, gt=0)
    """How far the probability ratio of one token may leave 1: that of a whole completion of n tokens is clipped to
    (1 + clip)^(+-sqrt(n))."""


class RLOO(Algorithm):
    """REINFORCE with a leave-one-out baseline."""

    Config = RLOOConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    config: RLOOConfig

    def __init__(self, config: RLOOConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        check_groups("rloo", config.batch_size, "group_size", config.group_size)
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=envs.planned_updates
        )

    def update(self) -> Mapping[str, float]:
        """Collect groups, compare each completion with the others of its group, learn in a few epochs."""
        self.optimizer.start_update(self.envs.progress)
        rollout = collect(self.policy, self.envs, self.rng, group_size=self.config.group_size)
        kl_coef = self.kl_coef if self.config.kl_placement == "reward" else 0.0
        returns_B = rollout.relative_returns_B(kl_coef, self.config.group_size)
        advantages_B = leave_one_out_advantages(returns_B, self.config.group_size)
        return rollout.metrics(self.kl_coef) | self.learn(rollout, advantages_B)

    @property
    def queries_needed(self) -> int:
        """One group."""
        return self.config.group_size

    def learn(self, rollout: Rollout, advantages_B: Tensor) -> dict[str, float]:
        """Epochs of minibatch updates; the loss is a mean over completions."""
        steps = []
        for rows in minibatch_rows(len(rollout), self.config.epochs, self.config.minibatches, self.rng):
            for part, share in self.optimizer.micro_batches(rows, torch.ones_like(rows)):
                loss, figures = self.loss(rollout.select(part), advantages_B[part])
                (share * loss).backward()  # type: ignore[no-untyped-call]
                self.optimizer.log(share, figures)
            steps.append(self.optimizer.step())
        return with_sample_size(mean_metrics(steps))

    def loss(self, part: Rollout, advantages_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate on ratios of whole completions, and the KL loss if that is where the KL goes."""
        logprobs_BT, entropy_BT, _ = self.policy.model.token_outputs(part.completions, entropy_gradient=False)
        lengths_B = part.completions.lengths_B
        surrogate = sequence_surrogate(logprobs_BT, part.logprobs_BT, advantages_B, lengths_B, clip=self.config.clip)
        loss = surrogate.loss
        penalty_BT = kl_loss(self.config.kl_placement, logprobs_BT, part)
        if penalty_BT is not None:
            loss = loss + self.kl_coef * penalty_BT.sum(1).mean()
        return loss, {**surrogate.figures(), "entropy": masked_mean(entropy_BT, part.completions.mask_BT)}
