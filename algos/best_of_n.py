"""Best of n: sample n completions from the reference, answer with the one of the highest reward.

It trains nothing and costs at inference: n completions and n reward queries per answer.
On an enumerable task its distribution is known exactly. Elsewhere its KL to the reference is estimated from the rewards of
the candidates and how many of them tie (:mod:`bakeoff.best_of_n_kl`). Without ties it is ln n - (n - 1)/n, which otherwise
is only an upper bound (Beirami et al. 2024): where a verifier gives 0 or 1, a far higher one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, Contestant, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.policy import Policy
from bakeoff.best_of_n_kl import best_of_n_kl
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError
from bakeoff.maths import best_of_n_kl_bound

if TYPE_CHECKING:
    from bakeoff.envs.tasks.exact.enumeration import Enumeration


class BestOfNConfig(AlgorithmConfig):
    """Settings of best of n."""

    n: PositiveInt = 8
    """Completions sampled for each answer."""


@dataclass(frozen=True)
class BestCompletions(Completions):
    """Completions that were chosen, each as the best of n candidates."""

    candidate_scores_Bn: Tensor | None = None
    """The rewards of all candidates, float64; equal ones tell how far the choice is from the reference."""


class BestOfNSampler:
    """Answers with the best of n; a :class:`~bakeoff.algos.core.algorithm.Contestant`."""

    def __init__(self, policy: Policy, n: int) -> None:
        """Args:
        policy: gives the model to sample from.
        n: completions for each answer.
        """
        self._policy, self.n = policy, n

    def generate(self, envs: TextGenerationVectorEnv, generator: torch.Generator) -> BestCompletions:
        """For each prompt the best of n completions by the env's reward; the first of them where several are best."""
        prompts = envs.prompt_batch.repeat_interleave(self.n)
        candidates = self._policy.sample(prompts, envs.max_new_tokens, generator)
        scores_B = torch.as_tensor(envs.score_completions(candidates))
        best = candidates.select(best_of_each(scores_B, self.n))
        # No log-probabilities: they would be those of the model, not of the best of n.
        return BestCompletions(
            best.prompts, best.tokens_BT, best.mask_BT, None, best.features_BSD, scores_B.reshape(-1, self.n)
        )

    def statistics(self, completions: Completions) -> Mapping[str, Tensor]:
        """The KL as :func:`kl_of_answers` estimates it, the underlying model's entropy and likelihood at the chosen
        completions, and what an answer costs, each (B,).

        For completions without their candidates' scores the KL is its upper bound ln n - (n - 1)/n, and `kl_is_bound` is 1.
        """
        scores_Bn = completions.candidate_scores_Bn if isinstance(completions, BestCompletions) else None
        if scores_Bn is None:
            kl_B = torch.full((len(completions),), best_of_n_kl_bound(self.n))
        else:
            kl_B = kl_of_answers(scores_Bn, completions.prompts.indices_B.cpu())
        bound = {"kl_is_bound": torch.ones(len(completions))} if scores_Bn is None else {}
        price_B = torch.full((len(completions),), float(self.n))
        return {**self._policy.statistics(completions), **bound, "kl": kl_B, "queries_per_answer": price_B}

    def sequence_logprobs(self, enumeration: Enumeration) -> Tensor:
        """The exact distribution of the best of n over all completions, shape (prompts, N)."""
        return enumeration.best_of_n_logprobs(self.n)


def best_of_each(scores_B: Tensor, n: int) -> Tensor:
    """Row numbers of the best in each run of ``n`` consecutive rows, shape (B / n,)."""
    groups = scores_B.reshape(-1, n)
    return groups.argmax(1) + torch.arange(len(groups), device=groups.device) * n


CANDIDATES_TOGETHER = 8
"""Candidates of a prompt that estimate its KL together, where it has several answers and n is lower. From eight on the bias
of the estimate is negligible."""


def kl_of_answers(scores_Bn: Tensor, prompts_B: Tensor) -> Tensor:
    """Estimates of KL(best of n || reference) in nats, one for each answer, float64 (B,).

    Their mean is the estimate, and their sample deviation over the square root of B its standard error. Each comes from the
    answer's own n candidates. Where n is below eight, whose estimates have more bias, answers to one prompt are taken
    together, eight candidates or more if it has them: their mean is the estimate from all of these, and an answer's
    deviation from it is how much it would change without that answer (a jackknife's pseudo-values, centered). Such a value
    may lie below 0 or above the bound.

    Args:
        scores_Bn: the rewards of the n candidates of each answer.
        prompts_B: which prompt each answers.
    """
    n = scores_Bn.shape[1]
    if n >= CANDIDATES_TOGETHER:
        return torch.tensor([best_of_n_kl(scores_n, n) for scores_n in scores_Bn.tolist()], dtype=torch.float64)
    kl_B = torch.empty(len(scores_Bn), dtype=torch.float64)
    for prompt in sorted(set(prompts_B.tolist())):
        answers = torch.nonzero(prompts_B == prompt).squeeze(1)
        for rows in answers.tensor_split(max(1, len(answers) * n // CANDIDATES_TOGETHER)):
            kl_B[rows] = _kl_together(scores_Bn[rows])
    return kl_B


def _kl_together(scores_Kn: Tensor) -> Tensor:
    """One estimate for each of K answers to one prompt, (K,)."""
    K, n = scores_Kn.shape
    together = best_of_n_kl(scores_Kn.flatten().tolist(), n)
    if K == 1:
        return torch.tensor([together], dtype=torch.float64)
    others = [best_of_n_kl(torch.cat([scores_Kn[:k], scores_Kn[k + 1 :]]).flatten().tolist(), n) for k in range(K)]
    without_K = torch.tensor(others, dtype=torch.float64)
    return together + (K - 1) * (without_K.mean() - without_K)


class BestOfN(Algorithm):
    """Best of n as a contestant: one batch is generated and scored, so that its cost is counted; then the best of n answers."""

    Config = BestOfNConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    stays_without_signal: ClassVar[bool] = False  # its exact distribution is that of the task's own reward
    # n is what an answer costs, and nothing is trained.
    not_tuned: ClassVar[frozenset[str]] = frozenset({"n", "learning_rate"})
    config: BestOfNConfig

    def __init__(
        self, config: BestOfNConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        super().__init__(config, policy, envs, rng)
        if config.batch_size % config.n:
            raise ConfigError("best_of_n", [f"batch_size {config.batch_size} is not a multiple of n {config.n}"])
        self.adopted = False

    def update(self) -> Mapping[str, float]:
        """Generate and score one batch of groups of n; from then on the best of n answers."""
        self.envs.begin_batch(self.config.n)
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        rewards_B = self.envs.play(completions).rewards_B
        self.adopted = True
        best_B = rewards_B[best_of_each(rewards_B, self.config.n)]
        prompts_B = completions.prompts.indices_B[:: self.config.n].cpu()
        kl_B = kl_of_answers(rewards_B.cpu().reshape(-1, self.config.n), prompts_B)
        return {
            "reward": float(best_B.mean()),
            "reward_of_all": float(rewards_B.mean()),
            "kl": float(kl_B.mean()),
        }

    @property
    def queries_needed(self) -> int:
        """One group."""
        return self.config.n

    @property
    def finished(self) -> bool:
        """After one batch."""
        return self.adopted

    def contestant(self) -> Contestant:
        """The reference before the first update, then the best of n."""
        return BestOfNSampler(self.policy, self.config.n) if self.adopted else self.policy
