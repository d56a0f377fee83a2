"""Pairs of completions of one prompt, the first preferred to the second: tokens, labels and the reference's log-probabilities.

The reference never changes, so its log-probabilities are computed once, when a pair is made, and kept. Both sides of a batch of
pairs go through the policy as one batch, which reads their prompt once where that pays. Letters: B pairs, 2 sides (chosen,
rejected), T completion length.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from bakeoff.algos.core.policy import Policy
from bakeoff.envs.language_model.completions import Completions, PromptBatch

REFERENCE_ROWS = 64
"""Completions that the reference reads at once."""


@dataclass(frozen=True)
class TokenizedPairs:
    """A batch of pairs."""

    chosen: Completions
    """The better ones, by their labels."""
    rejected: Completions
    """The worse ones, of the same prompts row by row."""
    reference_logps_B2: Tensor
    """Log-probability of each whole completion under the reference, float32."""
    preference_B: Tensor
    """Probability that the chosen one is the better: 1 for a plain label, float32."""
    reward_margin_B: Tensor
    """Reward of the chosen one less that of the rejected one, float32; NaN where unknown. For metrics only: no loss reads it."""

    @classmethod
    def with_reference(
        cls,
        policy: Policy,
        chosen: Completions,
        rejected: Completions,
        *,
        preference_B: Tensor | None = None,
        reward_margin_B: Tensor | None = None,
    ) -> TokenizedPairs:
        """Pairs with the log-probabilities of ``policy``'s reference.

        Args:
            policy: whose reference reads them.
            chosen: the better ones.
            rejected: the worse ones, of the same prompts.
            preference_B: how sure that is; 1 where left out.
            reward_margin_B: difference of rewards, where known.
        """
        count = len(chosen)
        sides_together = torch.arange(2 * count).reshape(2, count).T.flatten()  # which share a prompt
        both = join([chosen, rejected]).select(sides_together)
        return cls(
            chosen,
            rejected,
            reference_logps(policy, both).reshape(count, 2).float().cpu(),
            torch.ones(count) if preference_B is None else preference_B.float().cpu(),
            torch.full((count,), math.nan) if reward_margin_B is None else reward_margin_B.float().cpu(),
        )

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lengths_B2(self) -> Tensor:
        """Real tokens of each completion, int64."""
        return torch.stack([self.chosen.lengths_B, self.rejected.lengths_B], 1)

    @property
    def joined(self) -> Completions:
        """All completions as one batch of 2 B: the chosen ones, then the rejected ones."""
        return join([self.chosen, self.rejected])

    def select(self, rows: Tensor) -> TokenizedPairs:
        """The named rows."""
        return TokenizedPairs(
            self.chosen.select(rows),
            self.rejected.select(rows),
            *(x[rows] for x in (self.reference_logps_B2, self.preference_B, self.reward_margin_B)),
        )

    def on_cpu(self) -> TokenizedPairs:
        """What is kept of them."""
        return dataclasses.replace(self, chosen=plain(self.chosen), rejected=plain(self.rejected))

    @classmethod
    def concatenated(cls, parts: Sequence[TokenizedPairs]) -> TokenizedPairs:
        """Several batches as one."""
        chosen, rejected = join([p.chosen for p in parts]), join([p.rejected for p in parts])
        names = ("reference_logps_B2", "preference_B", "reward_margin_B")
        rest = [torch.cat([getattr(p, name) for p in parts]) for name in names]
        return cls(chosen, dataclasses.replace(rejected, prompts=chosen.prompts), *rest)

    def state_dict(self) -> dict[str, Any]:
        """The tensors, by name."""
        prompts = self.chosen.prompts
        return {
            "prompt_tokens": prompts.tokens_BP,
            "prompt_mask": prompts.mask_BP,
            "prompt_indices": prompts.indices_B,
            "chosen_tokens": self.chosen.tokens_BT,
            "chosen_mask": self.chosen.mask_BT,
            "rejected_tokens": self.rejected.tokens_BT,
            "rejected_mask": self.rejected.mask_BT,
            "reference_logps": self.reference_logps_B2,
            "preference": self.preference_B,
            "reward_margin": self.reward_margin_B,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TokenizedPairs:
        """The inverse of :meth:`state_dict`."""
        prompts = PromptBatch(state["prompt_tokens"], state["prompt_mask"], state["prompt_indices"])
        chosen = Completions(prompts, state["chosen_tokens"], state["chosen_mask"])
        rejected = Completions(prompts, state["rejected_tokens"], state["rejected_mask"])
        return cls(chosen, rejected, state["reference_logps"], state["preference"], state["reward_margin"])


class Rows(Protocol):
    """A batch of rows, in tensors."""

    def __len__(self) -> int:
        """How many."""

    def select(self, rows: Tensor) -> Self:
        """The named rows."""

    def on_cpu(self) -> Self:
        """What of them is kept, on the CPU."""

    def state_dict(self) -> dict[str, Any]:
        """The tensors, by name."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`state_dict`."""

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        """Several batches as one."""


R = TypeVar("R", bound=Rows)


class RowBuffer(Generic[R]):
    """Rows to learn from, on the CPU: the newest ``capacity`` of those that were added."""

    def __init__(self, kind: type[R], capacity: int | None = None) -> None:
        """Without a ``capacity`` all are kept."""
        self._kind, self.capacity = kind, capacity
        self.added = 0
        self._rows: R | None = None

    def __len__(self) -> int:
        return 0 if self._rows is None else len(self._rows)

    @property
    def rows(self) -> R:
        """All that are kept, oldest first.

        Raises:
            ValueError: there are none yet.
        """
        if self._rows is None:
            raise ValueError("nothing was added to this buffer yet")
        return self._rows

    def add(self, rows: R) -> None:
        """Keep more."""
        kept = rows.on_cpu() if self._rows is None else self._kind.concatenated([self._rows, rows.on_cpu()])
        if self.capacity is not None and len(kept) > self.capacity:
            kept = kept.select(torch.arange(len(kept) - self.capacity, len(kept)))
        self._rows, self.added = kept, self.added + len(rows)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of ``count`` different rows, or of all where there are no more."""
        return torch.randperm(len(self), generator=generator)[:count]

    def state_dict(self) -> dict[str, Any]:
        """The rows, and how many were ever added."""
        return {"added": self.added, "rows": {} if self._rows is None else self._rows.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.added = int(state["added"])
        self._rows = self._kind.from_state(state["rows"]) if state["rows"] else None


class PairBuffer(RowBuffer[TokenizedPairs]):
    """Pairs to learn from, on the CPU: the newest ``capacity`` of those that were added."""

    def __init__(self, capacity: int | None = None) -> None:
        """Without a ``capacity`` all are kept."""
        super().__init__(TokenizedPairs, capacity)

    @property
    def pairs(self) -> TokenizedPairs:
        """All that are kept, oldest first."""
        return self.rows


def join(batches: Sequence[Completions]) -> Completions:
    """Several batches as one, each part padded to the widest.

    Log-probabilities are dropped, activations kept where all have them.
    """
    width = length = 0
    for batch in batches:
        width, length = max(width, batch.prompts.tokens_BP.shape[1]), max(length, batch.tokens_BT.shape[1])
    prompt_tokens, prompt_masks, indices, tokens, masks, features = [], [], [], [], [], []
    for batch in batches:
        left, right = width - batch.prompts.tokens_BP.shape[1], length - batch.tokens_BT.shape[1]
        prompt_tokens.append(pad(batch.prompts.tokens_BP, (left, 0)))
        prompt_masks.append(pad(batch.prompts.mask_BP, (left, 0)))
        indices.append(batch.prompts.indices_B)
        tokens.append(pad(batch.tokens_BT, (0, right)))
        masks.append(pad(batch.mask_BT, (0, right)))
        # Activations are of the columns of prompt and completion: they fit only where nothing was padded further.
        if batch.features_BSD is not None and left == right == 0:
            features.append(batch.features_BSD)
    prompts = PromptBatch(torch.cat(prompt_tokens), torch.cat(prompt_masks), torch.cat(indices))
    all_features = torch.cat(features) if len(features) == len(batches) else None
    return Completions(prompts, torch.cat(tokens), torch.cat(masks), None, all_features)


def reference_logps(policy: Policy, completions: Completions) -> Tensor:
    """Log-probability of each whole completion under ``policy``'s reference, float32 (B,) on the CPU.

    Read without kept activations, as in training.
    """
    completions = dataclasses.replace(completions, features_BSD=None)
    parts = torch.split(torch.arange(len(completions)), REFERENCE_ROWS)
    return torch.cat([policy.reference_logprobs(completions.select(rows)).sum(1).float().cpu() for rows in parts])


def plain(completions: Completions) -> Completions:
    """On the CPU, without what only the policy that sampled knows (log-probabilities, activations)."""
    prompts = completions.prompts
    parts = (x.cpu() for x in (prompts.tokens_BP, prompts.mask_BP, prompts.indices_B))
    return Completions(PromptBatch(*parts), completions.tokens_BT.cpu(), completions.mask_BT.cpu())
