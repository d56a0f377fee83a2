"""Policy gradient with the batch's mean return as its baseline (REINFORCE, Williams 1992). Change it into what you want to try."""

from collections.abc import Mapping

import torch

from bakeoff.algos import Algorithm, AlgorithmConfig, DataSource, Optimizer, Policy, relative_scores
from bakeoff.envs import TextGenerationVectorEnv


class BatchBaselineConfig(AlgorithmConfig):
    """Settings of its own, beside those of every algorithm (batch_size, kl_coef, learning_rate, ...)."""

    normalize: bool = True
    """Divide advantages by their standard deviation."""


class BatchBaseline(Algorithm):
    """Policy gradient with the batch's mean return as its baseline."""

    Config = BatchBaselineConfig
    data_source = DataSource.ONLINE
    config: BatchBaselineConfig

    def __init__(
        self, config: BatchBaselineConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=envs.planned_updates
        )

    def update(self) -> Mapping[str, float]:
        """Collect a batch and learn from it once. B completions of T tokens."""
        # The learning rate of this update, by the share of the budget spent before it.
        self.optimizer.start_update(self.envs.progress)
        # Play one completion of each prompt, fewer where the budget ends; the environment counts tokens and reward queries.
        prompts = self.envs.begin_batch()
        completions = self.policy.sample(prompts, self.envs.max_new_tokens, self.rng)
        rewards_B = self.envs.play(completions).rewards_B
        # What is maximized: reward - kl_coef * log(policy / reference). Both are read in one kind of pass, and rewards lose their
        # mean in float64: what differs by rounding alone is exactly 0, so equal rewards teach nothing.
        log_ratios_B = (self.policy.logprobs(completions) - self.policy.reference_logprobs(completions)).sum(1)
        relative_B, _ = relative_scores(rewards_B)
        # Make likelier what was better than the batch's mean.
        advantages_B = relative_B - self.kl_coef * (log_ratios_B - log_ratios_B.mean())
        if self.config.normalize:
            advantages_B = advantages_B / (advantages_B.std() + 1e-6)
        logprobs_B = self.policy.model.token_logprobs(completions).sum(1)
        loss = -(advantages_B * logprobs_B).mean()
        self.optimizer.zero_grad()
        loss.backward()
        step = self.optimizer.step()  # clips, and returns the gradient's norm and the learning rate
        return {"reward": float(rewards_B.mean()), "kl": float(log_ratios_B.mean()), **step}

    @property
    def queries_needed(self) -> int:
        """The fewest reward queries that another update needs: one completion."""
        return 1
