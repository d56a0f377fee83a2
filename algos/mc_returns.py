"""Monte-Carlo Q: regress the reference's returns, tilt by them. The honest simple baseline of value learning.

Q(s, a), the mean score of completions that continue with token a and then as the reference does, is learned by least squares from
completions of the reference; answers follow ref(a|s) exp(Q / beta). That is one step of soft policy iteration: each token is
chosen well if all tokens after it are chosen as the reference chooses. Nothing is bootstrapped, so nothing can diverge; and
nothing is learned about what follows from choosing well later, so even a perfect fit stays below the optimum.

Q is held as V(s) + beta (log pi(a|s) - log ref(a|s)), which leaves Q free and makes the language model pi the tilted policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, Contestant, DataSource
from bakeoff.algos.core.critic import Critic, CriticKind
from bakeoff.algos.core.guided_decoding import GuidedDecoder
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import Rollout
from bakeoff.algos.losses.advantages import masked_mean
from bakeoff.algos.preference_data.logged import LoggedCompletions, OfflineConfig
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError


class MCReturnsConfig(OfflineConfig):
    """Settings of Monte-Carlo Q."""

    critic: CriticKind = "auto"
    """The value network's kind, as in PPO."""


class MCReturns(Algorithm):
    """Regression on returns, and a tilt."""

    Config = MCReturnsConfig
    data_source: ClassVar[DataSource] = DataSource.REPLAY
    config: MCReturnsConfig

    def __init__(
        self, config: MCReturnsConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        if not self.kl_coef > 0:
            raise ConfigError("mc_returns", ["kl_coef is 0, and Q is held in units of it; give one above 0"])
        self.data = LoggedCompletions(config, policy, envs)
        self.critic = Critic(policy, config.critic)
        self.optimizer = Optimizer(
            [*policy.parameters(), *self.critic.parameters()],
            config,
            policy.model.width,
            planned_updates=self.data.planned_updates,
        )

    def update(self) -> Mapping[str, float]:
        """Get data, and learn from all there are."""
        self.optimizer.start_update(self.data.progress)
        metrics = self.data.grow(self.rng)
        steps = [self.step(self.data.draw(self.rng)) for _ in range(self.config.gradient_steps)]
        return {**metrics, **mean_metrics(steps)}

    def step(self, batch: Rollout) -> dict[str, float]:
        """One step; the loss is a mean over tokens."""
        for part, share in self.optimizer.micro_batches(torch.arange(len(batch)), batch.completions.lengths_B.cpu()):
            loss, figures = self.loss(batch.select(part))
            (share * loss).backward()  # type: ignore[no-untyped-call]
            self.optimizer.log(share, figures)
        return self.optimizer.step()

    def loss(self, part: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Half the mean squared error of Q(s_t, a_t) against the completion's score, in units of beta."""
        completions = part.completions
        if self.critic.reads_policy:
            logprobs_BT, _, hidden = self.policy.model.token_outputs(completions, entropy_gradient=False)
        else:
            logprobs_BT, hidden = self.policy.model.token_logprobs(completions), None
        values_BT = self.critic.values(completions, hidden)
        action_values_BT = values_BT + self.kl_coef * (logprobs_BT - part.reference_logprobs_BT)
        errors_BT = (part.scores_B[:, None] - action_values_BT) / self.kl_coef
        loss = 0.5 * masked_mean(errors_BT**2, completions.mask_BT)
        return loss, {"q_loss": loss, "value": masked_mean(values_BT, completions.mask_BT) + (self.data.origin or 0.0)}

    @property
    def queries_needed(self) -> int:
        """One completion, where the reference makes the data."""
        return self.data.queries_needed

    @property
    def finished(self) -> bool:
        """After the last update with given data."""
        return self.data.finished

    def contestant(self) -> Contestant:
        """The language model itself, or the reference with another share of the tilt."""
        return self.policy if self.config.decoding_beta is None else self.decoded(self.config.decoding_beta)

    def decoded(self, decoding_beta: float) -> Contestant:
        """Answers by reference logits + ``decoding_beta`` * (Q - V), without training anew."""
        share, model, reference = decoding_beta * self.kl_coef, self.policy.model, self.policy.reference
        return GuidedDecoder(
            self.policy, lambda ours, theirs: torch.lerp(reference.head(theirs), model.head(ours), share)
        )
