"""Soft Q-learning on whole completions: path consistency with replay, the language model's own logits as the Q function.

In the KL-regularized token MDP the best policy is the reference tilted by its own action values (Haarnoja et al. 2017),

    pi*(a|s) = ref(a|s) exp((Q*(s, a) - V*(s)) / beta),

so a policy and a soft Q function are one thing: Q(s, a) = V(s) + beta (log pi(a|s) - log ref(a|s)). With the language model as pi
the tilt is zero at the start, the soft value of Q is V by construction, no table of V tokens has to be stored, and what is learned
stays an ordinary causal language model. Along any stretch of any completion the optimum satisfies

    V(s_i) = sum_t [r_t - beta log(pi/ref)(a_t|s_t)] + V(s_j),

whichever policy sampled it (path consistency: Nachum et al. 2017), so old completions teach as well as new ones, without importance
weights. The default takes whole completions and, instead of V(prompt), the mean over the batch's completions of the same prompt:
the loss is the variance of score / beta - log(pi/ref) among them (Richter et al. 2020's log-variance loss; in GFlowNets,
trajectory balance: Malkin et al. 2022; Zhang et al. 2023). On fresh samples its gradient is RLOO's.

Scores are counted from the first batch's mean: without a discount that moves V by a constant and changes nothing else, and a
value network need not learn a number that says nothing. Departures from the papers: see docs/q-learning.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bakeoff import distributed
from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.critic import Critic, CriticKind
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.replay_buffer import ReplayBuffer
from bakeoff.algos.core.rollout import Rollout, check_groups, collect
from bakeoff.algos.core.target_network import soft_update
from bakeoff.algos.losses.rounding import scores_from, without_rounding
from bakeoff.algos.losses.value import (
    Backup,
    group_means,
    next_state_values,
    path_residuals,
    path_weights,
    terminal_rewards,
)
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError


class QLearningConfig(AlgorithmConfig):
    """Settings of soft Q-learning."""

    group_size: int = Field(8, ge=1)
    """Fresh completions of each prompt; `batch_size` is a multiple of it."""
    backup: Backup = "sequence"
    """What is made consistent: whole completions (`sequence`), `steps` tokens at a time (`steps`; 1 is one-step TD), or all
    stretches of each completion (`subtrajectories`). The last two need `value: network`."""
    value: Literal["batch_mean", "network"] = "batch_mean"
    """Where V comes from: the mean over the completions of the same prompt in a batch, or a value network."""
    steps: PositiveInt = 1
    """Tokens per stretch (`backup: steps`)."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """A stretch of n tokens weighs decay^(n - 1) (`backup: subtrajectories`)."""
    critic: CriticKind = "auto"
    """The value network's kind, as in PPO (`value: network`)."""
    value_coef: float = Field(default=1.0, gt=0)
    """Weight of the residual's gradient in the value network (`value: network`)."""
    tau: float = Field(default=0.2, gt=0, le=1)
    """How far the value that stretches end in moves towards the value network after each step; 1 is no separate target."""
    replay_capacity: PositiveInt = 2048
    """Completions that the replay buffer keeps."""
    train_batch_size: PositiveInt = 256
    """Completions per gradient step, drawn from the replay buffer."""
    replay_group: PositiveInt = 32
    """Completions of one prompt that are drawn together, as far as there are as many (`value: batch_mean`)."""
    gradient_steps: PositiveInt = 4
    """Gradient steps after each batch of fresh completions."""
    priority_alpha: float = Field(default=0.0, ge=0, le=1)
    """Completions are drawn in proportion to |residual|^this; 0 draws uniformly."""
    priority_beta: float = Field(default=1.0, ge=0, le=1)
    """How much importance weights take back of that; 1 is all."""


class QLearning(Algorithm):
    """Soft (KL-regularized) Q-learning with replay."""

    Config = QLearningConfig
    data_source: ClassVar[DataSource] = DataSource.REPLAY
    config: QLearningConfig

    def __init__(
        self, config: QLearningConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        check_groups("q_learning", config.batch_size, "group_size", config.group_size)
        problems = []
        if not self.kl_coef > 0:
            problems.append("kl_coef is 0, at which the soft Q function is undefined; give one above 0")
        if config.value == "batch_mean" and config.backup != "sequence":
            problems.append(f"backup: {config.backup} ends stretches in states that need a value; add value: network")
        if config.value == "batch_mean" and min(config.replay_group, config.train_batch_size) < 2:
            problems.append("value: batch_mean compares completions of one prompt; give replay_group of at least 2")
        if problems:
            raise ConfigError("q_learning", problems)
        self.replay = ReplayBuffer(config.replay_capacity, priority_alpha=config.priority_alpha)
        self.origin: float | None = None
        parameters = list(policy.parameters())
        self.critic: Critic | None = None
        self.target: Critic | None = None
        if config.value == "network":
            self.critic, self.target = Critic(policy, config.critic), Critic(policy, config.critic)
            parameters += self.critic.parameters()
        self.optimizer = Optimizer(parameters, config, policy.model.width, planned_updates=envs.planned_updates)

    def update(self) -> Mapping[str, float]:
        """Collect, store, and learn from the replay buffer."""
        self.optimizer.start_update(self.envs.progress)
        size = self.config.group_size
        rollout = collect(self.policy, self.envs, self.rng, group_size=size, keep_features=False)
        if self.origin is None:
            self.origin = float(rollout.scores_B.mean())
        self.replay.add(dataclasses.replace(rollout, scores_B=scores_from(self.origin, rollout.scores_B)))
        steps = [self.step() for _ in range(self.config.gradient_steps)]
        return {
            **rollout.metrics(self.kl_coef),
            **mean_metrics(steps),
            "replay_size": float(len(self.replay)),
        }

    @property
    def queries_needed(self) -> int:
        """One group."""
        return self.config.group_size

    def step(self) -> dict[str, float]:
        """One step on completions drawn from the replay buffer."""
        config = self.config
        group = config.replay_group if self.critic is None else 1
        rows, weights_B = self.replay.weighted_sample(
            config.train_batch_size, self.rng, beta=config.priority_beta, group_size=group
        )
        batch, weights_B = self.replay.batch(rows, self.policy.model.device), weights_B.to(self.policy.model.device)
        baseline_B = self.baseline(batch, weights_B)
        residuals_B = torch.zeros(len(rows))

        for part, share in self.optimizer.micro_batches(torch.arange(len(rows)), torch.ones(len(rows))):
            baseline = None if baseline_B is None else baseline_B[part]
            loss, residuals, figures = self.loss(batch.select(part), weights_B[part], baseline)
            (share * loss).backward()  # type: ignore[no-untyped-call]
            residuals_B[part] = residuals.detach().float().cpu()
            self.optimizer.log(share, figures)
        logs = self.optimizer.step()
        if config.priority_alpha > 0:
            self.replay.prioritize(rows, distributed.all_reduce_rows(residuals_B))
        if self.critic is not None and self.target is not None:
            soft_update(self.target.parameters(), self.critic.parameters(), config.tau)
        return logs

    @torch.no_grad()
    def baseline(self, batch: Rollout, weights_B: Tensor) -> Tensor | None:
        """V(prompt) / beta of each row, shape (B,), where parts of the batch cannot find it by themselves.

        The batch's mean depends on all of its rows. Its own gradient is 0 in sum, so it may as well be known before.
        """
        size = self.config.micro_batch_size
        whole = size is None or size >= len(batch)
        if self.critic is not None or (whole and not distributed.should_shard(len(batch))):
            return None
        parts = [batch.select(rows) for rows in torch.split(torch.arange(len(batch)), size or len(batch))]
        explained_B = torch.cat([self.explained(part, self.policy.logprobs(part.completions)) for part in parts])
        return group_means(explained_B, batch.completions.prompts.indices_B, weights_B)

    def explained(self, part: Rollout, logprobs_BT: Tensor) -> Tensor:
        """score / beta - log(pi/ref) of each completion, shape (B,): at the optimum V(prompt) / beta."""
        theirs_B = part.reference_logprobs_BT.sum(1)
        return part.scores_B / self.kl_coef - (without_rounding(logprobs_BT.sum(1), theirs_B) - theirs_B)

    def loss(
        self, part: Rollout, weights_B: Tensor, baseline_B: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Half the mean squared residual in nats; the residuals (B,); and figures.

        Residuals are divided by beta: the gradient's size is then that of log-probabilities, whatever the reward's scale.
        """
        beta, completions = self.kl_coef, part.completions
        if self.critic is not None and self.critic.reads_policy:
            logprobs_BT, _, hidden = self.policy.model.token_outputs(completions, entropy_gradient=False)
        else:
            logprobs_BT, hidden = self.policy.model.token_logprobs(completions), None
        with torch.no_grad():
            staleness = (logprobs_BT - part.logprobs_BT).sum(1).abs().mean()
        if self.critic is None or self.target is None:
            explained_B = self.explained(part, logprobs_BT)
            if baseline_B is None:
                baseline_B = group_means(explained_B, completions.prompts.indices_B, weights_B).detach()
            residuals_B = explained_B - baseline_B
            loss = 0.5 * (weights_B * residuals_B**2).mean()
            return (
                loss,
                residuals_B,
                self._figures(loss, residuals_B, beta * baseline_B + (self.origin or 0.0), staleness),
            )
        values_BT = self.critic.values(completions, hidden)
        with torch.no_grad():
            next_BT = next_state_values(self.target.values(completions, hidden), completions.mask_BT)
        log_ratios_BT = logprobs_BT - part.reference_logprobs_BT
        soft_rewards_BT = terminal_rewards(part.scores_B, completions.mask_BT) - beta * log_ratios_BT
        errors = path_residuals(soft_rewards_BT, scaled_gradient(values_BT, self.config.value_coef), next_BT) / beta
        paths = path_weights(completions.mask_BT, self.config.backup, steps=self.config.steps, decay=self.config.decay)
        squares_B = (paths * errors**2).sum((1, 2))
        loss = 0.5 * (weights_B * squares_B).mean()
        return (
            loss,
            squares_B.sqrt(),
            self._figures(loss, squares_B.sqrt(), values_BT[:, 0] + (self.origin or 0.0), staleness),
        )

    def _figures(self, loss: Tensor, residuals_B: Tensor, values_B: Tensor, staleness: Tensor) -> dict[str, Tensor]:
        return {
            "q_loss": loss,
            "residual": residuals_B.abs().mean(),
            "value": values_B.mean(),
            "staleness": staleness,
        }


def scaled_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values with ``factor`` times their gradient."""
    return values if factor == 1 else factor * values + (1 - factor) * values.detach()
