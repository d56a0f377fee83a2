"""Direct preference optimization (Rafailov et al. 2023): offline, from pairs of completions of which one is preferred.

Where labels are Bradley-Terry's in the reward, the policy itself is the reward model: its implicit reward is beta log(pi/ref), and
the maximum-likelihood fit of the labels has its optimum where the KL-regularized objective has (docs/preference-optimization.md).

Pairs are given, or sampled from the reference in the environment and labeled by the reward. Departures from the paper: the rate
falls over the budget or the passes; the set of pairs made here may grow during training; the reward labels them as a Bradley-Terry
rater would, at a temperature measured on the first pairs, where the paper's raters are people or the greater reward
(`labels: deterministic`, with the paper's beta).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.losses.preference import PreferenceLoss, preference_loss
from bakeoff.algos.losses.rounding import without_rounding
from bakeoff.algos.preference_data.label_temperature import UNMEASURED
from bakeoff.algos.preference_data.objective import PreferenceObjective, mean_pair_metrics, pair_figures
from bakeoff.algos.preference_data.pair_source import OfflinePreferenceConfig, PreferenceData
from bakeoff.algos.preference_data.pairs import TokenizedPairs
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
        config.objective("dpo", self.kl_coef, UNMEASURED)  # refuses settings that leave none
        self.data = PreferenceData("dpo", config, policy, envs, rng)
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=self.data.planned_updates
        )

    def update(self) -> Mapping[str, float]:
        """Get pairs, and learn from all there are."""
        self.optimizer.start_update(self.data.progress)
        made = {**self.data.collect(self.rng), "beta": self.objective.beta}
        steps: list[dict[str, float]] = []
        while len(steps) < self.config.gradient_steps and not self.finished:
            steps.append(train_on_pairs(self.policy, self.optimizer, self.data.draw(self.rng), self.objective))
        return {**made, **mean_pair_metrics(steps)}

    @property
    def queries_needed(self) -> int:
        """One pair, while pairs are made."""
        return self.data.queries_needed

    @property
    def objective(self) -> PreferenceObjective:
        """What is minimized; its beta follows from the labels' temperature, which the first pairs may decide."""
        return self.config.objective("dpo", self.kl_coef, self.data.temperature.value)

    @property
    def finished(self) -> bool:
        """After the last pass over pairs that are given or made before."""
        return self.data.finished


def train_on_pairs(
    policy: Policy, optimizer: Optimizer, pairs: TokenizedPairs, objective: PreferenceObjective
) -> dict[str, float]:
    """One gradient step on a batch of pairs.

    Args:
        policy: the model that learns.
        optimizer: over its parameters, with an update started; its ``micro_batch_size`` is the most completions in a forward
            pass, two per pair.
        pairs: the batch.
        objective: what is minimized.

    Returns:
        Figures of the batch before the step; :func:`mean_pair_metrics` turns them into the metrics of an update.
    """
    rows = torch.argsort(pairs.lengths_B2.amax(1), stable=True)  # a micro-batch holds little padding then
    for part_rows, share in optimizer.micro_batches(rows, torch.ones_like(rows), completions_per_row=2):
        part = pairs.select(part_rows)
        logps_B2 = policy.model.token_logprobs(part.joined).sum(1).reshape(2, len(part)).T
        loss, preferences = pair_loss(objective, logps_B2, part.reference_logps_B2, part.lengths_B2, part.preference_B)
        (share * loss).backward()  # type: ignore[no-untyped-call]
        optimizer.log(share, {"loss": loss, **pair_figures(logps_B2, preferences, part.reward_margin_B)})
    return optimizer.step()


def pair_loss(
    objective: PreferenceObjective,
    logps_B2: Tensor,
    reference_logps_B2: Tensor,
    lengths_B2: Tensor,
    preference_B: Tensor,
) -> tuple[Tensor, PreferenceLoss]:
    """The mean over pairs (a scalar), and the preference part of it.

    Args:
        objective: which loss, and its settings.
        logps_B2: log-probability of each whole completion under the policy, chosen first; differentiable.
        reference_logps_B2: under the reference.
        lengths_B2: real tokens of each.
        preference_B: probability that the chosen one is the better.
    """
    lengths_B2 = lengths_B2.to(logps_B2.device).clamp_min(1)
    theirs_B2 = reference_logps_B2.to(logps_B2.device)
    logps_B2 = without_rounding(logps_B2, theirs_B2)
    theirs_B2 = theirs_B2 * (0.0 if objective.reference_free else 1.0)
    scale_B2 = 1 / lengths_B2 if objective.length_normalization else torch.ones_like(logps_B2)
    ours_B2, theirs_B2 = logps_B2 * scale_B2, theirs_B2 * scale_B2
    preferences = preference_loss(
        ours_B2[:, 0], ours_B2[:, 1], theirs_B2[:, 0], theirs_B2[:, 1], beta=objective.beta, loss_type=objective.loss_type,
        label_smoothing=objective.label_smoothing, preference=preference_B.to(logps_B2.device),
        target_margin=objective.target_margin,
    )  # fmt: skip
    loss = preferences.loss
    if objective.supervised_coef:
        loss = loss - objective.supervised_coef * (logps_B2[:, 0] / lengths_B2[:, 0]).mean()
    return loss, preferences


class SimPOConfig(DPOConfig):
    """DPO's settings with SimPO's values."""

    beta: float | None = Field(default=2.0, gt=0)
    """SimPO's beta, in nats per token; the paper has 2 to 10."""
    target_margin: float = Field(default=1.0, ge=0)
    """Gamma: by how much beta times the margin should exceed 0; the paper has .3 to 1.6 times beta."""
    length_normalization: bool = True
    """Log-probabilities are means over a completion's tokens instead of sums; changes the objective."""
    reference_free: bool = True
    """Leave the reference out of the loss; changes the objective."""


class SimPO(DPO):
    """Simple preference optimization (Meng et al. 2024): DPO without a reference, on mean log-probabilities, with a target margin.

    Only the small amount of training keeps it near the reference; kl_coef is not used.
    """

    Config = SimPOConfig
    stays_without_signal: ClassVar[bool] = False  # its target margin and its missing reference pull
