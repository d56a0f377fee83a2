"""Online DPO (Guo et al. 2024): pairs of the current policy's own completions, labeled by the reward, anew for each update.

The loss is right for pairs from any sampler, so a batch serves a few epochs without probability ratios.

Departures from the paper. Its annotator, a language model, chooses one of two answers: one bit per pair. Here the task's reward
judges, and by default a label is *soft*: the probability sigmoid(difference / label_temperature), which gives away the whole
difference of the two rewards, far more than a choice does. `labels: bradley_terry` draws a choice with that probability, and
`labels: deterministic` always takes the greater reward, which is the nearest to the paper. All pairs within a group of `group_size`
completions of a prompt are used, each completion read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import Rollout, check_groups, collect, minibatch_rows
from bakeoff.algos.dpo import pair_loss
from bakeoff.algos.preference_data.label_temperature import UNMEASURED, LabelTemperature
from bakeoff.algos.preference_data.labels import Labels, label_pairs
from bakeoff.algos.preference_data.objective import (
    PreferenceConfig,
    PreferenceObjective,
    mean_pair_metrics,
    pair_figures,
)
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class OnlineDPOConfig(PreferenceConfig):
    """Settings of online DPO."""

    labels: Labels = "soft"
    """How the reward labels pairs: `soft` keeps the probability sigmoid(difference / label_temperature) as label, so a label
    carries the whole difference of rewards, unlike the paper's choice by an annotator; `bradley_terry` draws the better one with
    it, `deterministic` takes the greater reward. Equal rewards are labeled one half."""
    group_size: int = Field(default=2, ge=2)
    """Completions of each prompt; all pairs among them are learned from. `batch_size` is a multiple of it."""
    epochs: PositiveInt = 4
    """Passes over each batch of pairs."""
    minibatches: PositiveInt = 2
    """Gradient steps per pass; the prompts of a batch are shared out over them."""


@dataclass(frozen=True)
class LabeledGroups:
    """All pairs within groups of completions, K pairs per group, and their labels."""

    rows_GK2: Tensor
    """Row of each pair's chosen and rejected completion within its group, int64."""
    preference_GK: Tensor
    """Probability that the chosen one is the better."""


class OnlineDPO(Algorithm):
    """Online direct preference optimization."""

    Config = OnlineDPOConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    config: OnlineDPOConfig

    def __init__(
        self, config: OnlineDPOConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        check_groups("online_dpo", config.batch_size, "group_size", config.group_size)
        self.temperature = LabelTemperature(config.label_temperature, config.labels)
        config.objective("online_dpo", self.kl_coef, UNMEASURED)  # refuses settings that leave none
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=envs.planned_updates
        )

    def update(self) -> Mapping[str, float]:
        """Collect groups, label all pairs within each, learn in a few epochs."""
        self.optimizer.start_update(self.envs.progress)
        rollout = collect(self.policy, self.envs, self.rng, group_size=self.config.group_size)
        labeled = self.label(rollout)
        figures = self.temperature.metrics(self.config.labels) | {"beta": self.objective.beta}
        return rollout.metrics(self.kl_coef) | self.learn(rollout, labeled) | figures

    @property
    def queries_needed(self) -> int:
        """One group."""
        return self.config.group_size

    @property
    def objective(self) -> PreferenceObjective:
        """What is minimized; its beta follows from the labels' temperature, which the first pairs may decide."""
        return self.config.objective("online_dpo", self.kl_coef, self.temperature.value)

    def label(self, rollout: Rollout) -> LabeledGroups:
        """Label every pair within every group, once for all epochs."""
        size = self.config.group_size
        rows_K2 = torch.combinations(torch.arange(size))
        rewards_GK2 = rollout.scores_B.cpu().reshape(-1, size)[:, rows_K2]
        groups, count = rewards_GK2.shape[:2]
        rewards_N2 = rewards_GK2.reshape(-1, 2)
        tau = self.temperature.update(rewards_N2[:, 0], rewards_N2[:, 1])
        side_N, preference_N = label_pairs(rewards_N2, self.config.labels, tau, self.rng)
        sides_GK2 = torch.stack([side_N, 1 - side_N], 1).reshape(groups, count, 2)
        rows_GK2 = rows_K2.expand(groups, count, 2).gather(2, sides_GK2)
        return LabeledGroups(rows_GK2, preference_N.reshape(groups, count))

    def learn(self, rollout: Rollout, labeled: LabeledGroups) -> dict[str, float]:
        """Epochs of minibatch updates on whole groups; the loss is a mean over pairs."""
        size, steps = self.config.group_size, []
        for groups in minibatch_rows(len(labeled.rows_GK2), self.config.epochs, self.config.minibatches, self.rng):
            ones = torch.ones_like(groups)
            for part, share in self.optimizer.micro_batches(groups, ones, completions_per_row=size):
                loss, figures = self.loss(rollout, labeled, part)
                (share * loss).backward()  # type: ignore[no-untyped-call]
                self.optimizer.log(share, figures)
            steps.append(self.optimizer.step())
        return mean_pair_metrics(steps)

    def loss(self, rollout: Rollout, labeled: LabeledGroups, groups: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The preference loss of all pairs of some groups, each completion read once."""
        size = self.config.group_size
        part = rollout.select((groups[:, None] * size + torch.arange(size)).flatten())
        logps_B = self.policy.model.token_logprobs(part.completions).sum(1)
        rows_N2 = (labeled.rows_GK2[groups] + torch.arange(len(groups))[:, None, None] * size).reshape(-1, 2)
        rows_N2 = rows_N2.to(logps_B.device)
        preference_N = labeled.preference_GK[groups].flatten()
        logps_N2 = logps_B[rows_N2]
        lengths_N2, scores_N2 = part.completions.lengths_B[rows_N2], part.scores_B[rows_N2]
        reference_N2 = part.reference_logprobs_BT.sum(1)[rows_N2]
        loss, preferences = pair_loss(self.objective, logps_N2, reference_N2, lengths_N2, preference_N)
        return loss, {"loss": loss, **pair_figures(logps_N2, preferences, scores_N2[:, 0] - scores_N2[:, 1])}
