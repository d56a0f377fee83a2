"""Group relative policy optimization (Shao et al. 2024, "DeepSeekMath").

PPO without a value function: each prompt is completed several times, and a completion's advantage is its return in
standard deviations of its group, the same at each of its tokens.

Departures from the paper: the KL penalty stands in the reward (`kl_placement: k3_loss` puts it in the loss, as in the
paper, `k3_ratio_loss` as in TRL; their fixed points are others), and the reference is the task's model throughout.
`normalize_variance: false` with `length_normalization: limit` is Dr. GRPO (Liu et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import GroupConfig, Rollout, check_groups, collect, kl_loss, minibatch_rows
from bakeoff.algos.losses.advantages import group_advantages, masked_mean
from bakeoff.algos.losses.policy_gradient import (
    LengthNormalization,
    clipped_surrogate,
    completion_average,
    with_sample_size,
)
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class GRPOConfig(GroupConfig):
    """GRPO's settings."""

    normalize_variance: bool = True
    """Divide advantages by the group's standard deviation; Dr. GRPO does not."""
    length_normalization: LengthNormalization = "completion"
    """Token losses are averaged over each `completion` first (GRPO), over all tokens of the `batch` (DAPO), or summed
    and divided by the length `limit` (Dr. GRPO)."""


class GRPO(Algorithm):
    """Group relative policy optimization."""

    Config = GRPOConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    config: GRPOConfig

    def __init__(self, config: GRPOConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        check_groups("grpo", config.batch_size, "group_size", config.group_size)
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=envs.planned_updates
        )
        self.reduce = partial(completion_average, by=config.length_normalization, limit=envs.max_new_tokens)

    def update(self) -> Mapping[str, float]:
        """Collect groups, compare within each, learn in a few epochs."""
        self.optimizer.start_update(self.envs.progress)
        rollout = collect(self.policy, self.envs, self.rng, group_size=self.config.group_size)
        advantages_B = self.advantages(rollout)
        return rollout.metrics(self.kl_coef) | self.learn(rollout, advantages_B)

    @property
    def queries_needed(self) -> int:
        """One group."""
        return self.config.group_size

    def advantages(self, rollout: Rollout) -> Tensor:
        """Each completion's return relative to its group, shape (B,)."""
        kl_coef = self.kl_coef if self.config.kl_placement == "reward" else 0.0
        returns_B = rollout.relative_returns_B(kl_coef, self.config.group_size)
        return group_advantages(returns_B, self.config.group_size, normalize=self.config.normalize_variance)

    def learn(self, rollout: Rollout, advantages_B: Tensor) -> dict[str, float]:
        """Epochs of minibatch updates; whether the loss is a mean over tokens or over completions is a setting."""
        lengths_B = rollout.completions.lengths_B
        weights_B = lengths_B if self.config.length_normalization == "batch" else torch.ones_like(lengths_B)
        steps = []
        for rows in minibatch_rows(len(rollout), self.config.epochs, self.config.minibatches, self.rng):
            for part, share in self.optimizer.micro_batches(rows, weights_B[rows]):
                loss, figures = self.loss(rollout.select(part), advantages_B[part])
                (share * loss).backward()  # type: ignore[no-untyped-call]
                self.optimizer.log(share, figures)
            steps.append(self.optimizer.step())
        return with_sample_size(mean_metrics(steps))

    def loss(self, part: Rollout, advantages_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate on token ratios, and the KL loss if that is where the KL goes."""
        mask_BT = part.completions.mask_BT
        logprobs_BT, entropy_BT, _ = self.policy.model.token_outputs(part.completions, entropy_gradient=False)
        surrogate = clipped_surrogate(
            logprobs_BT, part.logprobs_BT, advantages_B[:, None], mask_BT, clip=self.config.clip, reduce=self.reduce
        )
        loss = surrogate.loss
        penalty_BT = kl_loss(self.config.kl_placement, logprobs_BT, part)
        if penalty_BT is not None:
            loss = loss + self.kl_coef * self.reduce(penalty_BT, mask_BT)
        return loss, {**surrogate.figures(), "entropy": masked_mean(entropy_BT, mask_BT)}
