"""REINFORCE (Williams 1992): one step along the score function, each completion weighted by its return less a baseline.

The plainest policy gradient, and the yardstick of the others: no value function, no groups, no clip, each batch used
once. The KL penalty stands in the reward.

Departure from the paper: the baseline is one number for all prompts, either a running mean of the batches before (so it
does not depend on what it is taken from) or this batch's own mean (which shortens the expected gradient by 1/B).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import Rollout, collect
from bakeoff.algos.losses.advantages import masked_mean
from bakeoff.algos.losses.policy_gradient import score_function_loss
from bakeoff.algos.losses.rounding import relative_scores, scores_from
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class ReinforceConfig(AlgorithmConfig):
    """REINFORCE's settings."""

    baseline: Literal["running", "batch"] = "running"
    """`running`: a moving average over earlier batches; `batch`: this batch's own mean return."""
    baseline_decay: float = Field(default=0.9, ge=0, lt=1)
    """How much of the running baseline a new batch leaves."""


class Reinforce(Algorithm):
    """REINFORCE with a baseline."""

    Config = ReinforceConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    config: ReinforceConfig

    def __init__(
        self, config: ReinforceConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=envs.planned_updates
        )
        self.score_baseline: float | None = None
        self.kl_baseline: float | None = None

    def update(self) -> Mapping[str, float]:
        """Collect, take off the baseline, make one step."""
        self.optimizer.start_update(self.envs.progress)
        rollout = collect(self.policy, self.envs, self.rng)
        advantages_B, baseline = self.advantages(rollout)
        rows = torch.arange(len(rollout))
        for part, share in self.optimizer.micro_batches(rows, torch.ones_like(rows)):
            loss, figures = self.loss(rollout.select(part), advantages_B[part])
            (share * loss).backward()  # type: ignore[no-untyped-call]
            self.optimizer.log(share, figures)
        step = self.optimizer.step()
        return rollout.metrics(self.kl_coef) | step | {"baseline": baseline}

    @property
    def queries_needed(self) -> int:
        """One completion."""
        return 1

    def advantages(self, rollout: Rollout) -> tuple[Tensor, float]:
        """Each completion's return less the baseline, shape (B,), and the baseline.

        Score and KL have their baselines apart, so that a score which is the same every time leaves exactly nothing.
        """
        relative_B, means_B = relative_scores(rollout.scores_B)
        mean_score, mean_kl = float(means_B[0]), float(rollout.log_ratios_B.mean())
        score_baseline, self.score_baseline = self.move_baseline(self.score_baseline, mean_score)
        kl_baseline, self.kl_baseline = self.move_baseline(self.kl_baseline, mean_kl)
        gain = float(scores_from(score_baseline, means_B[:1]))
        advantages_B = relative_B + gain - self.kl_coef * (rollout.log_ratios_B - kl_baseline)
        return advantages_B.float(), score_baseline - self.kl_coef * kl_baseline

    def move_baseline(self, baseline: float | None, mean: float) -> tuple[float, float]:
        """The baseline for this batch and for the next: a running one takes a batch in only afterwards, the first is its own."""
        if self.config.baseline == "batch" or baseline is None:
            return mean, mean
        decay = self.config.baseline_decay
        return baseline, decay * baseline + (1 - decay) * mean

    def loss(self, part: Rollout, advantages_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus advantage times log-probability, a mean over completions, and figures."""
        logprobs_BT, entropy_BT, _ = self.policy.model.token_outputs(part.completions, entropy_gradient=False)
        loss = score_function_loss(logprobs_BT, advantages_B)
        return loss, {"policy_loss": loss, "entropy": masked_mean(entropy_BT, part.completions.mask_BT)}
