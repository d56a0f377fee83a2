"""Single completions with a judgment each, good or bad, and where they come from: given, or the reference's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bakeoff.algos.core.policy import Policy
from bakeoff.algos.losses.rounding import tied
from bakeoff.algos.preference_data.encoding import encode_demonstrations, read_demonstrations
from bakeoff.algos.preference_data.labels import Labels
from bakeoff.algos.preference_data.pairs import join, plain, reference_logps
from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.errors import ConfigError


@dataclass(frozen=True)
class Judgments:
    """A batch of completions, each judged by itself."""

    completions: Completions
    """What was judged."""
    reference_logps_B: Tensor
    """Log-probability of each under the reference, float32."""
    desirable_B: Tensor
    """Probability that it is a good one: 1 or 0 for plain judgments, float32."""
    rewards_B: Tensor
    """The optimized reward of each, float32; NaN where unknown. For metrics only: no loss reads it."""

    @classmethod
    def with_reference(
        cls,
        policy: Policy,
        completions: Completions,
        desirable_B: Tensor,
        *,
        rewards_B: Tensor | None = None,
    ) -> Judgments:
        """Judgments with the log-probabilities of ``policy``'s reference."""
        unknown_B = torch.full((len(completions),), float("nan"))
        return cls(
            completions,
            reference_logps(policy, completions).float().cpu(),
            desirable_B.float(),
            unknown_B if rewards_B is None else rewards_B.float(),
        )

    def __len__(self) -> int:
        return len(self.completions)

    def select(self, rows: Tensor) -> Judgments:
        """The named rows."""
        rest = (x[rows] for x in (self.reference_logps_B, self.desirable_B, self.rewards_B))
        return Judgments(self.completions.select(rows), *rest)

    def on_cpu(self) -> Judgments:
        """What is kept of them."""
        rest = (x.cpu() for x in (self.reference_logps_B, self.desirable_B, self.rewards_B))
        return Judgments(plain(self.completions), *rest)

    def state_dict(self) -> dict[str, Any]:
        """The tensors, by name."""
        prompts = self.completions.prompts
        return {
            "prompt_tokens": prompts.tokens_BP,
            "prompt_mask": prompts.mask_BP,
            "prompt_indices": prompts.indices_B,
            "tokens": self.completions.tokens_BT,
            "mask": self.completions.mask_BT,
            "reference_logps": self.reference_logps_B,
            "desirable": self.desirable_B,
            "rewards": self.rewards_B,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Judgments:
        """The inverse of :meth:`state_dict`."""
        prompts = PromptBatch(state["prompt_tokens"], state["prompt_mask"], state["prompt_indices"])
        completions = Completions(prompts, state["tokens"], state["mask"])
        return cls(completions, state["reference_logps"], state["desirable"], state["rewards"])

    @classmethod
    def concatenated(cls, parts: Sequence[Judgments]) -> Judgments:
        """Several batches as one."""
        names = ("reference_logps_B", "desirable_B", "rewards_B")
        rest = [torch.cat([getattr(p, name) for p in parts]) for name in names]
        return cls(join([p.completions for p in parts]), *rest)


def judge(rewards_B: Tensor, standard: float, labels: Labels, temperature: float, generator: torch.Generator) -> Tensor:
    """The probability that each completion is a good one, float32 (B,): 1 or 0 but for `soft` labels and ties.

    Good is what a rater of the Bradley-Terry kind would prefer to a completion whose reward is ``standard``: with probability
    sigmoid((r - standard) / temperature). A reward that equals it, up to rounding, is judged one half, whatever the labels.

    Args:
        rewards_B: the optimized reward of each.
        standard: the reward to beat.
        labels: `bradley_terry` draws the judgment, `deterministic` compares, `soft` keeps the probability.
        temperature: tau.
        generator: draws.
    """
    rewards_B = rewards_B.double().cpu()
    uniform_B = torch.rand(len(rewards_B), generator=generator, dtype=torch.float64)
    chance_B = ((rewards_B - standard) / temperature).sigmoid()
    match labels:
        case "bradley_terry":
            judged_B = (uniform_B < chance_B).double()
        case "deterministic":
            judged_B = (rewards_B > standard).double()
        case "soft":
            judged_B = chance_B
    return torch.where(tied(rewards_B, torch.full_like(rewards_B, standard)), 0.5, judged_B).float()


def read_judged(
    source: Path | Sequence[Mapping[str, Any]], language_model: LanguageModel, max_new_tokens: int
) -> tuple[Completions, Tensor, float]:
    """Given completions, their judgments (B,), and the share that had to be cut.

    Raises:
        ConfigError: what cannot be read, or a row without a judgment, by its line.
    """
    rows = read_demonstrations(source)
    judgments = []
    for place, row in rows:
        label = row.get("label")
        if not isinstance(label, bool):
            raise ConfigError(place, [f'the judgment is {label!r}; give true (good) or false (bad) under "label"'])
        judgments.append(float(label))
    completions, cut = encode_demonstrations(language_model, rows, max_new_tokens)
    return completions, torch.tensor(judgments), cut / len(rows)
