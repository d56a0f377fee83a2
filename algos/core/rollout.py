"""Fresh completions of the policy with all that a policy gradient needs to know of them, and the walk over them.

Shared by the algorithms without a value function: the whole completion is one action with one return.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.losses.advantages import masked_mean
from bakeoff.algos.losses.kl import k3, k3_ratio
from bakeoff.algos.losses.rounding import relative_scores
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError

KLPlacement = Literal["reward", "k3_loss", "k3_ratio_loss"]


class GroupConfig(AlgorithmConfig):
    """Settings of the algorithms that compare completions of one prompt with each other."""

    group_size: int = Field(8, ge=2)
    """Completions of each prompt; `batch_size` is a multiple of it."""
    epochs: PositiveInt = 4
    """Passes over each batch of completions."""
    minibatches: PositiveInt = 2
    """Gradient steps per pass; `batch_size` completions are shared out over them."""
    clip: float = Field(0.2, gt=0)
    """How far the probability ratio may leave 1 before its gradient stops."""
    kl_placement: KLPlacement = "reward"
    """`reward`: beta * log(pi/ref) is taken off the reward, which is the objective's own gradient; `k3_loss`: beta * k3
    is added to the loss, as in the GRPO paper; `k3_ratio_loss`: beta * k3 * pi/pi_old, as in TRL. Both are other gradients with
    other fixed points."""


@dataclass(frozen=True)
class Rollout:
    """A batch of completions, scored."""

    completions: Completions
    """The completions."""
    scores_B: Tensor
    """The reward of each, float64."""
    logprobs_BT: Tensor
    """Log-probabilities under the policy that sampled them, read in one pass over the whole completion; 0 outside the mask. Those
    of the sampler, which reads token by token, are the completions' own: they differ by rounding, which is no signal."""
    reference_logprobs_BT: Tensor
    """Log-probabilities under the reference, read in the same way; 0 outside the mask."""

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def log_ratios_B(self) -> Tensor:
        """log(pi/ref) of each whole completion in nats: the k1 estimate of the sequence KL."""
        return (self.logprobs_BT - self.reference_logprobs_BT).sum(1)

    def returns_B(self, kl_coef: float) -> Tensor:
        """Score - beta * log-ratio of each completion; its mean is the objective J."""
        return self.scores_B - kl_coef * self.log_ratios_B

    def relative_returns_B(self, kl_coef: float, group_size: int) -> Tensor:
        """The returns with each score less its group's mean: exactly 0 where scores are equal and the policy is the reference.

        Args:
            kl_coef: beta.
            group_size: consecutive rows of a group.
        """
        return relative_scores(self.scores_B, group_size)[0] - kl_coef * self.log_ratios_B

    def select(self, rows: Tensor) -> Rollout:
        """The named rows."""
        parts = (self.scores_B, self.logprobs_BT, self.reference_logprobs_BT)
        return Rollout(self.completions.select(rows), *(part[rows] for part in parts))

    def metrics(self, kl_coef: float) -> dict[str, float]:
        """The metrics of a batch, under the names that all algorithms use."""
        return {
            "reward": float(self.scores_B.mean()),
            "kl": float(self.log_ratios_B.mean()),
            "kl_coef": kl_coef,
            "objective": float(self.returns_B(kl_coef).mean()),
            "length": float(self.completions.lengths_B.float().mean()),
            **self._sampler_metrics(),
        }

    def _sampler_metrics(self) -> dict[str, float]:
        """How far the sampler's log-probabilities are from those of the whole pass."""
        sampled_BT = self.completions.logprobs_BT
        if sampled_BT is None:
            return {}
        gap = masked_mean((sampled_BT - self.logprobs_BT).abs(), self.completions.mask_BT)
        return {"sampler_gap": float(gap)}


def collect(
    policy: Policy,
    envs: TextGenerationVectorEnv,
    generator: torch.Generator,
    *,
    group_size: int = 1,
    keep_features: bool = True,
) -> Rollout:
    """Complete a batch of prompts in the environment; ``group_size`` neighboring rows share a prompt.

    The batch is smaller where the budget pays for fewer whole groups.

    Args:
        policy: samples.
        envs: scores.
        generator: draws the tokens.
        group_size: rows of a prompt.
        keep_features: keep the activations of a frozen trunk; False where the completions will be read without them, since what
            the sampler left and a whole pass differ by rounding.
    """
    envs.begin_batch(group_size)
    completions = policy.sample(envs.prompt_batch, envs.max_new_tokens, generator)
    scores_B = envs.play(completions).rewards_B
    if not keep_features:
        completions = dataclasses.replace(completions, features_BSD=None)
    return Rollout(completions, scores_B, policy.logprobs(completions), policy.reference_logprobs(completions))


def kl_loss(placement: KLPlacement, logprobs_BT: Tensor, part: Rollout) -> Tensor | None:
    """What beta multiplies in the loss of each token, shape (B, T); None where the KL is in the reward.

    Args:
        placement: where the KL goes.
        logprobs_BT: under the policy being trained, 0 outside the mask.
        part: the completions.
    """
    match placement:
        case "reward":
            return None
        case "k3_loss":
            return k3(logprobs_BT, part.reference_logprobs_BT)
        case "k3_ratio_loss":
            return k3_ratio(logprobs_BT, part.logprobs_BT, part.reference_logprobs_BT)


def check_groups(algorithm: str, batch_size: int, setting: str, group_size: int) -> None:
    """Refuse a batch that does not consist of whole groups.

    Raises:
        ConfigError: names the algorithm and both settings.
    """
    if batch_size % group_size:
        raise ConfigError(algorithm, [f"batch_size {batch_size} is not a multiple of {setting} {group_size}"])


def minibatch_rows(count: int, epochs: int, minibatches: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of each minibatch: every row once per epoch, in an order drawn anew for each."""
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).tensor_split(min(minibatches, count))
