"""Direct preference optimization (Rafailov et al. 2023): offline, from pairs of completions of which one is preferred.

Where labels are Bradley-Terry's in the reward, the policy itself is the reward model: its implicit reward is beta log(pi/ref), and
the maximum-likelihood fit of the labels has its optimum where the KL-regularized objective has (docs/preference-optimization.md).

Pairs are given, or made by the reference in the environment and judged by the proxy. Departures from the paper: the rate falls
over the budget or the passes; pairs made here may grow while they are learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.preference_data.objective import learn_pairs, mean_pair_metrics
from bakeoff.algos.preference_data.pair_source import OfflinePreferenceConfig, PreferenceData
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class DPOConfig(OfflinePreferenceConfig):
    """Settings of direct preference optimization."""


class DPO(Algorithm):
    """Direct preference optimization on pairs."""

    Config = DPOConfig
    data_source: ClassVar[DataSource] = DataSource.PREFERENCES
    config: OfflinePreferenceConfig

    def __init__(
        self, config: OfflinePreferenceConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        self.objective = config.objective("dpo", self.kl_coef)
        self.data = PreferenceData("dpo", config, policy, envs, rng)
        self.optimizer = Optimizer(policy.parameters(), config, policy.model.width)

    def update(self) -> Mapping[str, float]:
        """Get pairs, and learn from all there are."""
        made = self.data.collect(self.rng)
        steps: list[dict[str, float]] = []
        while len(steps) < self.config.gradient_steps and not self.finished:
            pairs, progress = self.data.draw(self.rng), self.data.progress
            steps.append(learn_pairs(self.policy, self.optimizer, pairs, self.objective, progress))
        return {**made, **mean_pair_metrics(steps), "learning_rate": self.optimizer.rate(self.data.progress)}

    @property
    def finished(self) -> bool:
        """After the last pass over pairs that are given or made before."""
        return self.data.finished


class SimPOConfig(DPOConfig):
    """DPO's settings with SimPO's values."""

    beta: float | None = Field(default=2.0, gt=0)
    """Of the loss, here in nats a token; the paper has 2 to 10."""
    target_margin: float = Field(default=1.0, ge=0)
    """Gamma: by how much beta times the margin should exceed 0; the paper has .3 to 1.6 times beta."""
    length_normalization: bool = True
    """Log-probabilities are means over a completion's tokens in place of sums; changes the objective."""
    reference_free: bool = True
    """Leave the reference out of the loss; changes the objective."""


class SimPO(DPO):
    """Simple preference optimization (Meng et al. 2024): DPO without a reference, on mean log-probabilities, with a target margin.

    Nothing holds it near the reference but how little it trains; kl_coef is not used.
    """

    Config = SimPOConfig
