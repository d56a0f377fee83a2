"""Proximal policy optimisation on whole completions (Schulman et al. 2017; for language models Ziegler et al. 2019).

Phase I: the policy completes a batch of prompts, and the reward model scores them. Phase II: a few epochs of minibatch
updates of the clipped surrogate on the probability ratio, with advantages by GAE from a value function, and the KL
divergence to the reference as a per-token penalty in the reward.

Departures from the papers: the critic is a separate network by default (a shared trunk is a setting), its head starts at
zero, advantages are whitened over the batch rather than the minibatch, and a completion cut at the length limit is not
bootstrapped: the limit is part of the task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bakeoff.algos import kl as kl_estimators
from bakeoff.algos.advantages import explained_variance, generalised_advantages, kl_shaped_rewards, masked_mean, whiten
from bakeoff.algos.base import Algorithm, AlgorithmConfig, DataSource
from bakeoff.algos.critic import Critic, CriticKind
from bakeoff.algos.losses import clipped_surrogate, clipped_value_loss
from bakeoff.algos.optimization import Optimizer
from bakeoff.algos.policy import Policy
from bakeoff.envs.completions import Completions
from bakeoff.envs.token_mdp import TextGenerationVectorEnv


class PPOConfig(AlgorithmConfig):
    """PPO's settings; the defaults are those of Ziegler et al. 2019 where they name one."""

    epochs: PositiveInt = 4
    """Passes over each batch of completions (phase II)."""
    minibatches: PositiveInt = 2
    """Updates a pass; `batch_size` completions are shared out over them."""
    clip: float = Field(default=0.2, gt=0)
    """How far the probability ratio may leave 1 before its gradient stops."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """How far a value may move from the one at collection, in units of the reward; null for no limit."""
    value_coef: float = Field(default=0.1, ge=0)
    """Weight of the value loss."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of an entropy bonus; anything above 0 changes the objective."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a token; below 1 changes the objective."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """GAE's lambda: 1 uses whole returns, 0 one-step errors of the value function."""
    whiten_advantages: bool = True
    """Scale the batch's advantages to mean 0 and deviation 1."""
    critic: CriticKind = "auto"
    """`separate`: a second network, no larger than what the policy trains of its own; `shared`: a linear head on the policy's
    hidden states; `mlp`: a small network on them that does not move the policy; `auto`: `shared` for adapters, else `separate`."""
    kl_target: float | None = Field(default=None, gt=0)
    """Adapt the KL coefficient towards this sequence KL in nats; null keeps it fixed. Adapting changes the objective."""
    kl_horizon: PositiveInt = 10_000
    """Completions over which the adaptive coefficient reacts."""
    stop_kl: float | None = Field(default=None, gt=0)
    """End phase II early once the mean KL(old || new) a token exceeds this; null never does."""


@dataclass(frozen=True)
class Batch:
    """What phase I leaves for phase II."""

    completions: Completions
    """What was played; its log-probabilities are the old policy's."""
    old_values_BT: Tensor
    """The critic's values at collection."""
    advantages_BT: Tensor
    """By GAE, whitened if so set."""
    returns_BT: Tensor
    """Targets of the critic."""


class PPO(Algorithm):
    """Proximal policy optimisation."""

    Config = PPOConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    config: PPOConfig

    def __init__(self, config: PPOConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        self.critic = Critic(policy, config.critic)
        self.optimizer = Optimizer([*policy.parameters(), *self.critic.parameters()], config, policy.model.width)

    def update(self) -> Mapping[str, float]:
        """Collect, score, estimate advantages, learn, adapt the KL coefficient."""
        completions, scores_B = self.collect()
        rewards_BT, metrics = self.score(completions, scores_B)
        batch = self.estimate_advantages(completions, rewards_BT)
        metrics |= self.learn(batch)
        self.adapt_kl_coefficient(metrics["kl"], len(completions))
        return metrics

    def collect(self) -> tuple[Completions, Tensor]:
        """Phase I: complete a batch of prompts in the environment; the reward scores each, shape (B,)."""
        self.envs.reset()
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        played = self.envs.play(completions)
        return completions, played.rewards_B.to(completions.tokens_BT.device)

    def score(self, completions: Completions, scores_B: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Per-token rewards: the score at the last token, the KL penalty at every one, shape (B, T)."""
        logprobs_BT = _known(completions.logprobs_BT)
        reference_BT = self.policy.reference_logprobs(completions)
        rewards_BT = kl_shaped_rewards(scores_B, logprobs_BT, reference_BT, completions.mask_BT, self.kl_coef)
        sequence_kl = (kl_estimators.k1(logprobs_BT, reference_BT) * completions.mask_BT).sum(1).mean()
        return rewards_BT, {
            "reward": float(scores_B.mean()),
            "kl": float(sequence_kl),
            "kl_coef": self.kl_coef,
            "objective": float(rewards_BT.sum(1).mean()),
            "length": float(completions.lengths_B.float().mean()),
        }

    @torch.no_grad()
    def estimate_advantages(self, completions: Completions, rewards_BT: Tensor) -> Batch:
        """GAE from the critic's values."""
        hidden = self.policy.model.completion_hidden(completions) if self.critic.reads_policy else None
        values_BT = self.critic.values(completions, hidden)
        advantages_BT, returns_BT = generalised_advantages(
            rewards_BT, values_BT, completions.mask_BT, gamma=self.config.gamma, lam=self.config.gae_lambda
        )
        if self.config.whiten_advantages:
            advantages_BT = whiten(advantages_BT, completions.mask_BT)
        return Batch(completions, values_BT, advantages_BT, returns_BT)

    def learn(self, batch: Batch) -> dict[str, float]:
        """Phase II: epochs of minibatch updates; stops early when the policy has moved too far."""
        logs: dict[str, list[float]] = defaultdict(list)
        epochs = 0
        for _ in range(self.config.epochs):
            order = torch.randperm(len(batch.completions), generator=self.rng)
            for rows in order.tensor_split(self.config.minibatches):
                for name, value in self.step(batch, rows).items():
                    logs[name].append(value)
            epochs += 1
            if self.config.stop_kl is not None and logs["approximate_kl"][-1] > self.config.stop_kl:
                break
        mask_BT = batch.completions.mask_BT
        return {name: sum(values) / len(values) for name, values in logs.items()} | {
            "explained_variance": explained_variance(batch.old_values_BT, batch.returns_BT, mask_BT),
            "return": float(masked_mean(batch.returns_BT, mask_BT)),
            "epochs": float(epochs),
            "learning_rate": self.optimizer.rate(self.envs.progress),
        }

    def step(self, batch: Batch, rows: Tensor) -> dict[str, float]:
        """One minibatch; all of the losses are means over its tokens."""
        lengths = batch.completions.lengths_B[rows]
        return self.optimizer.step_rows(rows, lengths, lambda part: self.loss(batch, part), self.envs.progress)

    def loss(self, batch: Batch, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped surrogate + value loss - entropy bonus, and what they were made of."""
        part = batch.completions.select(rows)
        logprobs_BT, entropy_BT, hidden = self.policy.model.token_outputs(
            part, entropy_gradient=self.config.entropy_coef > 0
        )
        values_BT = self.critic.values(part, hidden)
        surrogate = clipped_surrogate(
            logprobs_BT, _known(part.logprobs_BT), batch.advantages_BT[rows], part.mask_BT, clip=self.config.clip
        )
        value_loss = clipped_value_loss(
            values_BT, batch.old_values_BT[rows], batch.returns_BT[rows], part.mask_BT, clip=self.config.value_clip
        )
        entropy = masked_mean(entropy_BT, part.mask_BT)
        loss = surrogate.loss + self.config.value_coef * value_loss - self.config.entropy_coef * entropy
        return loss, {
            "policy_loss": surrogate.loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "ratio": surrogate.ratio_mean,
            "clip_fraction": surrogate.clip_fraction,
            "approximate_kl": surrogate.approximate_kl,
        }

    def adapt_kl_coefficient(self, kl: float, completions: int) -> None:
        """Move the KL coefficient towards the target, if there is one."""
        if self.config.kl_target is not None:
            self.kl_coef = kl_estimators.adapt_coefficient(
                self.kl_coef, kl, self.config.kl_target, completions, self.config.kl_horizon
            )


def _known(logprobs_BT: Tensor | None) -> Tensor:
    if logprobs_BT is None:
        raise ValueError(
            "these completions carry no log-probabilities; PPO needs those of the policy that sampled them"
        )
    return logprobs_BT
