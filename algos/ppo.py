"""Proximal policy optimization on whole completions (Schulman et al. 2017; for language models Ziegler et al. 2019).

Phase I: the policy completes a batch of prompts, and the reward model scores them. Phase II: a few epochs of minibatch
updates of the clipped surrogate on the probability ratio, with advantages by GAE from a value function, and the KL
divergence to the reference as a per-token penalty in the reward.

Departures from the papers: the critic is a separate network by default (a shared trunk is a setting), its head starts at
zero, advantages are whitened over the batch rather than the minibatch, a completion cut at the length limit is not bootstrapped
(the limit is part of the task), and without a discount the scores lose their batch's mean first. That changes no optimum, but
what the critic has to learn: with lambda below 1 a critic that is still far from a constant reward would give advantages to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.critic import Critic, CriticKind
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import Rollout, collect, minibatch_rows
from bakeoff.algos.losses import kl as kl_estimators
from bakeoff.algos.losses.advantages import (
    explained_variance,
    generalized_advantages,
    kl_shaped_rewards,
    masked_mean,
    whiten,
)
from bakeoff.algos.losses.policy_gradient import clipped_surrogate, clipped_value_loss, with_sample_size
from bakeoff.algos.losses.rounding import relative_scores
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError

STAYS_ZERO = (
    "kl_coef is 0, and adaptive_kl_target multiplies it, so it would stay 0; give kl_coef above 0 to start from"
)


class PPOConfig(AlgorithmConfig):
    """PPO's settings; the defaults are those of Ziegler et al. 2019 where they name one."""

    epochs: PositiveInt = 4
    """Passes over each batch of completions (phase II)."""
    minibatches: PositiveInt = 2
    """Gradient steps per pass; `batch_size` completions are shared out over them."""
    clip: float = Field(default=0.2, gt=0)
    """How far the probability ratio may leave 1 before its gradient stops."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """How far a value may move from the one at collection, in units of the reward; null for no limit."""
    value_coef: float = Field(default=0.1, ge=0)
    """Weight of the value loss."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of an entropy bonus; anything above 0 changes the objective."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token; below 1 changes the objective."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """GAE's lambda: 1 uses whole returns, 0 one-step errors of the value function."""
    whiten_advantages: bool = True
    """Scale the batch's advantages to mean 0 and deviation 1."""
    critic: CriticKind = "auto"
    """`separate`: a second network, no larger than what the policy trains of its own; `shared`: a linear head on the policy's
    hidden states; `mlp`: a small network on them that does not move the policy; `auto`: `shared` for adapters, else `separate`."""
    adaptive_kl_target: float | None = Field(default=None, gt=0)
    """Adapt the KL coefficient towards this sequence KL in nats; null keeps it fixed. Adapting changes the objective."""
    kl_horizon: PositiveInt = 10_000
    """Completions over which the adaptive coefficient grows by a factor of 1.22 at most, or falls by .82."""
    target_kl: float | None = Field(default=None, gt=0)
    """End phase II early once the mean KL(old || new) per token exceeds this; null: never."""

    @model_validator(mode="after")
    def _zero_does_not_adapt(self) -> PPOConfig:
        if self.adaptive_kl_target is not None and self.kl_coef == 0:
            raise ValueError(STAYS_ZERO)
        return self


@dataclass(frozen=True)
class Batch:
    """What phase I leaves for phase II."""

    rollout: Rollout
    """The completions; their log-probabilities are the old policy's."""
    old_values_BT: Tensor
    """The critic's values at collection."""
    advantages_BT: Tensor
    """By GAE, whitened if so set."""
    returns_BT: Tensor
    """Targets of the critic."""


class PPO(Algorithm):
    """Proximal policy optimization."""

    Config = PPOConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    config: PPOConfig

    def __init__(self, config: PPOConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        if config.adaptive_kl_target is not None and self.kl_coef == 0:
            raise ConfigError("ppo", [STAYS_ZERO])
        self.critic = Critic(policy, config.critic)
        self.optimizer = Optimizer(
            [*policy.parameters(), *self.critic.parameters()],
            config,
            policy.model.width,
            planned_updates=envs.planned_updates,
        )

    def update(self) -> Mapping[str, float]:
        """Collect, score, estimate advantages, learn, adapt the KL coefficient."""
        self.optimizer.start_update(self.envs.progress)
        rollout = collect(self.policy, self.envs, self.rng)
        rewards_BT = self.score(rollout)
        batch = self.estimate_advantages(rollout, rewards_BT)
        metrics = rollout.metrics(self.kl_coef) | self.learn(batch)
        self.adapt_kl_coefficient(metrics["kl"], len(rollout))
        return metrics

    @property
    def queries_needed(self) -> int:
        """One completion."""
        return 1

    def score(self, rollout: Rollout) -> Tensor:
        """Per-token rewards: the score at the last token, less the batch's mean where nothing is discounted, and the KL penalty at
        every token, shape (B, T)."""
        mask_BT = rollout.completions.mask_BT
        scores_B = relative_scores(rollout.scores_B)[0] if self.config.gamma == 1 else rollout.scores_B
        return kl_shaped_rewards(scores_B, rollout.logprobs_BT, rollout.reference_logprobs_BT, mask_BT, self.kl_coef)

    @torch.no_grad()
    def estimate_advantages(self, rollout: Rollout, rewards_BT: Tensor) -> Batch:
        """GAE from the critic's values."""
        completions = rollout.completions
        hidden = self.policy.model.completion_hidden(completions) if self.critic.reads_policy else None
        values_BT = self.critic.values(completions, hidden)
        advantages_BT, returns_BT = generalized_advantages(
            rewards_BT, values_BT, completions.mask_BT, gamma=self.config.gamma, lam=self.config.gae_lambda
        )
        if self.config.whiten_advantages:
            advantages_BT = whiten(advantages_BT, completions.mask_BT)
        return Batch(rollout, values_BT, advantages_BT, returns_BT)

    def learn(self, batch: Batch) -> dict[str, float]:
        """Phase II: epochs of minibatch updates; stops early when the policy has moved too far."""
        lengths_B, mask_BT = batch.rollout.completions.lengths_B, batch.rollout.completions.mask_BT
        steps: list[dict[str, float]] = []
        epochs = 0
        while epochs < self.config.epochs:
            for rows in minibatch_rows(len(batch.rollout), 1, self.config.minibatches, self.rng):
                for part, share in self.optimizer.micro_batches(rows, lengths_B[rows]):
                    loss, figures = self.loss(batch, part)
                    (share * loss).backward()  # type: ignore[no-untyped-call]
                    self.optimizer.log(share, figures)
                steps.append(self.optimizer.step())
            epochs += 1
            if self.config.target_kl is not None and steps[-1]["approximate_kl"] > self.config.target_kl:
                break
        return with_sample_size(mean_metrics(steps)) | {
            "explained_variance": explained_variance(batch.old_values_BT, batch.returns_BT, mask_BT),
            "epochs": float(epochs),
        }

    def loss(self, batch: Batch, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped surrogate + value loss - entropy bonus, each a mean over tokens, and their parts."""
        rollout = batch.rollout.select(rows)
        part = rollout.completions
        logprobs_BT, entropy_BT, hidden = self.policy.model.token_outputs(
            part, entropy_gradient=self.config.entropy_coef > 0
        )
        values_BT = self.critic.values(part, hidden)
        surrogate = clipped_surrogate(
            logprobs_BT, rollout.logprobs_BT, batch.advantages_BT[rows], part.mask_BT, clip=self.config.clip
        )
        value_loss = clipped_value_loss(
            values_BT, batch.old_values_BT[rows], batch.returns_BT[rows], part.mask_BT, clip=self.config.value_clip
        )
        entropy = masked_mean(entropy_BT, part.mask_BT)
        loss = surrogate.loss + self.config.value_coef * value_loss - self.config.entropy_coef * entropy
        return loss, {
            **surrogate.figures(),
            "value_loss": value_loss,
            "entropy": entropy,
        }

    def adapt_kl_coefficient(self, kl: float, completions: int) -> None:
        """Move the KL coefficient towards the target, if there is one."""
        if self.config.adaptive_kl_target is not None:
            self.kl_coef = kl_estimators.adapt_coefficient(
                self.kl_coef, kl, self.config.adaptive_kl_target, completions, self.config.kl_horizon
            )
