"""Log-probabilities, entropies and divergences over a large vocabulary, a chunk of rows at a time.

A batch of B x T hidden states makes B x T x V logits; at real vocabularies that is the largest tensor by far. Here the
head runs on as many rows as fit :data:`CHUNK_ELEMENTS`, what is wanted is reduced to one number a row, and the logits go.
With gradients each chunk is recomputed in the backward pass, so no second B x T x V tensor ever exists.

Letters: N rows (real tokens of a batch), D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**24
"""Logits held at once (64 MiB in float32)."""

Head = Callable[[Tensor], Tensor]
"""Hidden states (.., D) to masked float32 logits (.., V)."""


def over_chunks(function: Callable[..., Tensor], rows: tuple[Tensor, ...], vocabulary: int) -> Tensor:
    """``function(*rows)``, a chunk of rows at a time, results joined along the first dimension.

    Args:
        function: maps tensors of n rows to one tensor of n rows.
        rows: tensors of N rows each.
        vocabulary: V, which fixes how many rows are one chunk.
    """
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    total = rows[0].shape[0]
    if total <= size:
        return function(*rows)
    keeps_graph = torch.is_grad_enabled()
    parts = []
    for start in range(0, total, size):
        chunk = tuple(x[start : start + size] for x in rows)
        parts.append(checkpoint(function, *chunk, use_reentrant=False) if keeps_graph else function(*chunk))
    return torch.cat(parts)


def chosen_logprobs(head: Head, hidden_ND: Tensor, tokens_N: Tensor, vocabulary: int) -> Tensor:
    """Log-probability of each chosen token, shape (N,)."""

    def one(hidden: Tensor, tokens: Tensor) -> Tensor:
        logits = head(hidden)
        return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)

    return over_chunks(one, (hidden_ND, tokens_N), vocabulary)


def logprobs_and_entropy(head: Head, hidden_ND: Tensor, tokens_N: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Log-probability of each chosen token and entropy (nats) of its distribution, each (N,)."""

    def one(hidden: Tensor, tokens: Tensor) -> Tensor:
        logprobs = head(hidden).log_softmax(1)
        return torch.stack([logprobs.gather(1, tokens[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(1)], 1)

    both = over_chunks(one, (hidden_ND, tokens_N), vocabulary)
    return both[:, 0], both[:, 1]


def exact_kl(head: Head, hidden_ND: Tensor, other_head: Head, other_ND: Tensor, vocabulary: int) -> Tensor:
    """KL(p || q) in nats at each row, over the whole vocabulary, shape (N,)."""

    def one(hidden: Tensor, other: Tensor) -> Tensor:
        logp, logq = head(hidden).log_softmax(1), other_head(other).log_softmax(1)
        return (logp.exp() * (logp - logq)).sum(1)

    return over_chunks(one, (hidden_ND, other_ND), vocabulary)
