"""An enumerable task's exact figures: of a model, of the optimum, of best of n, and the best trade-off there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.tasks.exact import optimum
from bakeoff.envs.tasks.exact.optimum import SoftTables
from bakeoff.envs.tasks.exact.tree import MAX_SEQUENCES, CompletionTree
from bakeoff.errors import UserError

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel

MASS_TOLERANCE = 1e-3
"""How far from 1 the probabilities of all completions may add up; float32 models stay within 5e-5."""
FRONTIER_BETAS = tuple(10 ** (exponent / 10) for exponent in range(15, -21, -1))
"""From 31.6, next to the reference, to 0.01, next to the greatest reward."""


@dataclass(frozen=True)
class Figures:
    """Exact figures of one distribution, means over the prompts."""

    reward: float
    """E[r]."""
    kl: float
    """KL(policy || reference) in nats per sequence."""
    objective: float
    """E[r] - kl_coef * KL."""


@dataclass(frozen=True, eq=False)
class Enumeration:
    """Every completion of a few prompts, with its reward and its probability under the reference."""

    tree: CompletionTree
    """The completions, N of them."""
    prompts: PromptBatch
    """The distinct prompts, Q of them."""
    rewards_QN: Tensor = field(repr=False)
    """The optimized reward of each completion of each prompt, float64."""
    reference_logprobs_QN: Tensor = field(repr=False)
    """Log-probabilities under the reference, float64, normalized."""
    kl_coef: float
    """Beta, in reward units per nat."""

    def __post_init__(self) -> None:
        shape = (len(self.prompts), self.tree.num_leaves)
        for name, table in (("rewards", self.rewards_QN), ("reference log-probabilities", self.reference_logprobs_QN)):
            if tuple(table.shape) != shape:
                raise UserError(f"the {name} have shape {tuple(table.shape)}; (prompts, completions) is {shape}")
        if not bool(self.rewards_QN.isfinite().all()):
            raise UserError("the table of rewards holds NaN or infinity; every completion needs a finite reward")
        if not (self.kl_coef >= 0 and math.isfinite(self.kl_coef)):
            raise UserError(f"kl_coef is {self.kl_coef}, expected a number of at least 0")

    @classmethod
    def of(
        cls,
        language_model: LanguageModel,
        prompts: PromptBatch,
        rewards: Callable[[CompletionTree, Tensor], Tensor],
        *,
        max_new_tokens: int,
        kl_coef: float,
    ) -> Enumeration:
        """Enumerate what a reference can say.

        Args:
            language_model: the reference.
            prompts: the distinct prompts.
            rewards: makes the table (Q, N) from the completions and the reference's log-probabilities (Q, N).
            max_new_tokens: length limit.
            kl_coef: beta.

        Raises:
            UserError: too many completions, a table of another shape or with non-finite entries, a negative kl_coef.
        """
        tree = CompletionTree.of(language_model, max_new_tokens)
        if len(prompts) * tree.num_leaves > MAX_SEQUENCES:
            raise UserError(
                f"{len(prompts)} prompts with {tree.num_leaves:,} completions each are more than the {MAX_SEQUENCES:,} "
                "that can be enumerated: take fewer prompts or lower max_new_tokens"
            )
        reference = _normalized(tree.sequence_logprobs(language_model, prompts))
        return cls(tree, prompts, rewards(tree, reference).double(), reference, kl_coef)

    @property
    def tokens_NT(self) -> Tensor:
        """The tokens of every completion, pad id after the end."""
        return self.tree.tokens_NT

    @property
    def mask_NT(self) -> Tensor:
        """True on real tokens, end token included."""
        return self.tree.mask_NT

    def sequence_logprobs(self, language_model: LanguageModel) -> Tensor:
        """Log-probability of every completion under a model, float64 (Q, N); no gradients."""
        return self.tree.sequence_logprobs(language_model, self.prompts)

    # ---------------------------------------------------------------- how good a distribution is

    def figures(self, logprobs_QN: Tensor) -> Figures:
        """Exact reward, KL and objective of a distribution over the completions.

        Raises:
            UserError: the probabilities of some prompt do not add up to 1 within :data:`MASS_TOLERANCE`.
        """
        logprobs = _normalized(logprobs_QN)
        reward = float(optimum.expectation(logprobs, self.rewards_QN).mean())
        kl = float(optimum.kl_divergence(logprobs, self.reference_logprobs_QN).mean())
        return Figures(reward, kl, reward - self.kl_coef * kl)

    def objective(self, logprobs_QN: Tensor) -> dict[str, float]:
        """The figures under their public names, with (J - J_ref) / (J* - J_ref): 0 for the reference, 1 at best."""
        figures = self.figures(logprobs_QN)
        room = self.optimum.objective - self.reference.objective
        return {
            "exact_reward": figures.reward,
            "exact_kl": figures.kl,
            "exact_objective": figures.objective,
            "normalized_score": (figures.objective - self.reference.objective) / room if room > 0 else 1.0,
        }

    def win_rate(self, logprobs_QN: Tensor) -> float:
        """Probability that a sample's reward beats the reference's on the same prompt, ties one half."""
        rates_Q = optimum.win_rate(_normalized(logprobs_QN), self.reference_logprobs_QN, self.rewards_QN)
        return float(rates_Q.mean())

    def entropy(self, logprobs_QN: Tensor) -> float:
        """Entropy in nats per sequence, mean over the prompts."""
        return float(optimum.entropy(_normalized(logprobs_QN)).mean())

    # ---------------------------------------------------------------- what is best

    @cached_property
    def reference(self) -> Figures:
        """The reference's own figures; its KL is 0."""
        return self.figures(self.reference_logprobs_QN)

    @cached_property
    def optimum(self) -> Figures:
        """The figures of pi*: J*, and the reward and KL it has there."""
        return self.figures(self.optimal_logprobs_QN)

    @cached_property
    def optimal_logprobs_QN(self) -> Tensor:
        """log pi* = log pi_ref + r / kl_coef - log Z, float64."""
        return optimum.tilt(self.reference_logprobs_QN, self.rewards_QN, self.kl_coef)

    @cached_property
    def soft_tables(self) -> SoftTables:
        """V* and Q* of every prefix (see :func:`bakeoff.envs.tasks.exact.optimum.soft_bellman`)."""
        return optimum.soft_bellman(self.tree, self.reference_logprobs_QN, self.rewards_QN, self.kl_coef)

    def best_of_n_logprobs(self, n: int) -> Tensor:
        """Log of the exact distribution of the best of n samples of the reference, ties split, float64 (Q, N)."""
        return optimum.best_of_n(self.reference_logprobs_QN, self.rewards_QN, n)

    def frontier(self, betas: Sequence[float] = FRONTIER_BETAS) -> list[dict[str, float]]:
        """The most reward there is for each KL: ``beta``, ``kl`` and ``reward`` of the optimum at each beta.

        The optimum of mean reward - beta * mean KL has the same beta at every prompt, so these are the Pareto points of
        the means over prompts as well.
        """
        points = []
        for beta in betas:
            figures = self.figures(optimum.tilt(self.reference_logprobs_QN, self.rewards_QN, beta))
            points.append({"beta": float(beta), "kl": figures.kl, "reward": figures.reward})
        return points

    # ---------------------------------------------------------------- completions

    def completions(self, rows: Tensor, leaves: Tensor) -> Completions:
        """The named completions: ``rows`` (B,) say which prompt, ``leaves`` (B,) which completion."""
        return Completions(self.prompts.select(rows), self.tree.tokens_NT[leaves], self.tree.mask_NT[leaves])

    def sample(self, logprobs_QN: Tensor, rows: Tensor, generator: torch.Generator) -> Completions:
        """One completion drawn from a distribution for each named prompt (B,)."""
        return self.completions(rows, self.sample_leaves(logprobs_QN, rows, generator))

    def sample_leaves(self, logprobs_QN: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Which completion, drawn from a distribution for each named prompt, int64 (B,): inverse CDF on one uniform each."""
        cdf_QN = _normalized(logprobs_QN).exp().cumsum(1)
        uniform_B = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        leaves = torch.empty_like(rows)
        for row in range(len(cdf_QN)):
            here = rows == row
            cdf_N = cdf_QN[row]
            leaves[here] = torch.searchsorted(cdf_N, uniform_B[here] * cdf_N[-1], right=True).clamp(max=len(cdf_N) - 1)
        return leaves

    def leaf_index(self, completions: Completions) -> Tensor:
        """The number of each completion among the N, int64 (B,); see :meth:`CompletionTree.leaf_index`."""
        return self.tree.leaf_index(completions.tokens_BT, completions.mask_BT)


def _normalized(logprobs_QN: Tensor) -> Tensor:
    """In float64, and exactly normalized: what float32 lost is within the tolerance."""
    logprobs = logprobs_QN.detach().cpu().double()
    mass_Q = logprobs.exp().sum(-1)
    if not bool(((mass_Q - 1).abs() < MASS_TOLERANCE).all()):
        raise UserError(
            f"the probabilities of all completions add up to {[round(m, 4) for m in mass_Q.tolist()]} for the prompts, "
            "expected 1: give log-probabilities of the distribution that samples, over all tokens, at its temperature"
        )
    return logprobs.log_softmax(-1)
