"""Batches of unequal rows with little padding: a prompt that several rows have is read once, and rows of
like length go together.

A further pass costs time of its own (launching its operations, reading the weights), so either has to save enough tokens to be
worth it. Letters: B rows, U distinct prompts, P prompt length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PASS_COST = 16_384
"""Numbers in hidden states (tokens times width) that a further pass has to save: 680 tokens of a model of width 24, whose passes
cost little but their launch, 29 of one of width 576."""


ACCELERATOR_PASS_COST = 2**18
"""PASS_COST where passes are launched on another device: some ten milliseconds of launches against what it computes meanwhile, an
estimate that no measurement has confirmed."""


def tokens_worth_a_pass(width: int, device: torch.device) -> int:
    """How many tokens a further pass through a model of this hidden width has to save."""
    return -(-(PASS_COST if device.type == "cpu" else ACCELERATOR_PASS_COST) // width)


def select_rows(values: Tensor, rows_B: Tensor) -> Tensor:
    """``values[rows_B]``, whose gradient is summed in the same order each time, also where a row is selected more than once.

    PyTorch adds up the gradient of indexing on several CPU threads at once, in the order in which they happen to come; that of
    index_select it adds in order. On CUDA it is the other way round.
    """
    return values.index_select(0, rows_B) if values.device.type == "cpu" else values[rows_B]


@dataclass(frozen=True)
class DistinctPrompts:
    """The distinct prompts of a batch."""

    rows_U: Tensor
    """The first row that has each, int64."""
    prompt_B: Tensor
    """The index of each row's prompt among these, int64."""

    @classmethod
    def of(cls, tokens_BP: Tensor, mask_BP: Tensor, worth: int) -> DistinctPrompts | None:
        """The distinct prompts of a left-padded batch; None where reading each once saves fewer than ``worth`` tokens."""
        if int(mask_BP.sum()) <= worth:
            return None
        real_BP = torch.where(mask_BP, tokens_BP, -1)
        _, prompt_B = torch.unique(real_BP, dim=0, return_inverse=True)
        count = int(prompt_B.max()) + 1
        numbers_B = torch.arange(len(prompt_B), device=prompt_B.device)
        rows_U = torch.full((count,), len(prompt_B), device=prompt_B.device)
        rows_U = rows_U.scatter_reduce(0, prompt_B, numbers_B, "amin")
        saved = int(mask_BP.sum()) - int(mask_BP[rows_U].sum())
        return cls(rows_U, prompt_B) if saved >= worth else None


def length_parts(lengths: Sequence[int], worth: int) -> list[list[int]]:
    """Row numbers in order of length, cut into parts wherever that saves at least ``worth`` tokens of padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ordered = [lengths[row] for row in order]
    parts, start = [], 0
    for size in _sizes(ordered, worth):
        parts.append(order[start : start + size])
        start += size
    return parts


def _sizes(ascending: list[int], worth: int) -> list[int]:
    """How many of the rows go together, part by part: the cut that saves the most, then the same of either side."""
    count = len(ascending)
    if count < 2:
        return [count]
    whole = count * ascending[-1]
    best = min(range(1, count), key=lambda i: i * ascending[i - 1] + (count - i) * ascending[-1])
    if whole - best * ascending[best - 1] - (count - best) * ascending[-1] < worth:
        return [count]
    return [*_sizes(ascending[:best], worth), *_sizes(ascending[best:], worth)]
