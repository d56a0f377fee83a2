"""Prompts and completions as padded tensors: what flows between sampler, environment and algorithm.

Letters: B completions, P prompt length (left-padded), T completion length (right-padded), S = P + T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptBatch:
    """A batch of tokenized prompts, padded on the left."""

    tokens_BP: Tensor
    """Token ids (int64)."""
    mask_BP: Tensor
    """True on real prompt tokens."""
    indices_B: Tensor
    """The index of each row's prompt in its split (int64)."""

    def __len__(self) -> int:
        return int(self.tokens_BP.shape[0])

    def select(self, rows: Tensor | Sequence[int]) -> PromptBatch:
        """The named rows."""
        rows = _numbers(rows)
        return PromptBatch(self.tokens_BP[rows], self.mask_BP[rows], self.indices_B[rows])

    def to(self, device: torch.device) -> PromptBatch:
        """A copy on the device."""
        return PromptBatch(self.tokens_BP.to(device), self.mask_BP.to(device), self.indices_B.to(device))

    def repeat_interleave(self, times: int) -> PromptBatch:
        """Each row ``times`` times, copies side by side."""
        return PromptBatch(*(x.repeat_interleave(times, 0) for x in (self.tokens_BP, self.mask_BP, self.indices_B)))


@dataclass(frozen=True)
class Completions:
    """A batch of completions of a batch of prompts, padded on the right."""

    prompts: PromptBatch
    """The prompts they answer, row by row."""
    tokens_BT: Tensor
    """Token ids (int64); the pad id after the end."""
    mask_BT: Tensor
    """True on real completion tokens, end-of-sequence included."""
    logprobs_BT: Tensor | None = None
    """Log-probabilities under the policy that sampled them; 0 after the end. None where unknown or of no use for ratios."""
    features_BSD: Tensor | None = None
    """Activations of a frozen trunk at each column of prompt and completion but the last, kept from sampling; None where
    the whole model trains. Code that changes tokens has to drop them."""

    def __len__(self) -> int:
        return int(self.tokens_BT.shape[0])

    @property
    def lengths_B(self) -> Tensor:
        """Real tokens in each completion (int64)."""
        return self.mask_BT.sum(1)

    @property
    def sequence_tokens_BS(self) -> Tensor:
        """Prompt and completion side by side."""
        return torch.cat([self.prompts.tokens_BP, self.tokens_BT], 1)

    @property
    def sequence_mask_BS(self) -> Tensor:
        """True on real tokens of either."""
        return torch.cat([self.prompts.mask_BP, self.mask_BT], 1)

    def select(self, rows: Tensor | Sequence[int]) -> Completions:
        """The named rows."""
        rows = _numbers(rows)
        logprobs = None if self.logprobs_BT is None else self.logprobs_BT[rows]
        features = None if self.features_BSD is None else self.features_BSD[rows]
        return Completions(self.prompts.select(rows), self.tokens_BT[rows], self.mask_BT[rows], logprobs, features)


def _numbers(rows: Tensor | Sequence[int]) -> Tensor:
    """Row numbers as a tensor; an empty list alone would be one of floats, which index nothing."""
    numbers = torch.as_tensor(rows)
    return numbers if numbers.numel() else numbers.long()
