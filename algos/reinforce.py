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
        self.optimizer = Optimizer(policy.parameters(), config, policy.model.width)
        self.baseline: float | None = None

    def update(self) -> Mapping[str, float]:
        """Collect, take off the baseline, make one step."""
        rollout = collect(self.policy, self.envs, self.rng)
        returns_B = rollout.returns_B(self.kl_coef)
        baseline = self.move_baseline(float(returns_B.mean()))
        advantages_B = returns_B - baseline
        rows = torch.arange(len(rollout))
        for part, share in self.optimizer.micro_batches(rows, torch.ones_like(rows)):
            loss, figures = self.loss(rollout.select(part), advantages_B[part])
            (share * loss).backward()  # type: ignore[no-untyped-call]
            self.optimizer.log(share, figures)
        step = self.optimizer.step(self.envs.progress)
        rate = self.optimizer.rate(self.envs.progress)
        return rollout.metrics(self.kl_coef) | step | {"baseline": baseline, "learning_rate": rate}

    def move_baseline(self, mean_return: float) -> float:
        """The baseline for this batch; a running one takes the batch in only afterwards (the first batch is its own)."""
        if self.config.baseline == "batch" or self.baseline is None:
            self.baseline = mean_return
            return mean_return
        baseline, decay = self.baseline, self.config.baseline_decay
        self.baseline = decay * baseline + (1 - decay) * mean_return
        return baseline

    def loss(self, part: Rollout, advantages_B: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus advantage times log-probability, a mean over completions, and figures."""
        logprobs_BT, entropy_BT, _ = self.policy.model.token_outputs(part.completions, entropy_gradient=False)
        loss = score_function_loss(logprobs_BT, advantages_B)
        return loss, {"policy_loss": loss, "entropy": masked_mean(entropy_BT, part.completions.mask_BT)}
