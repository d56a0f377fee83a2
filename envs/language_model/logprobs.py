"""Log-probabilities, entropies and divergences over a large vocabulary, a chunk of rows at a time.

A batch of B x T hidden states makes B x T x V logits; at real vocabularies that is the largest tensor by far. Here the
head runs on as many rows as fit :data:`CHUNK_ELEMENTS`, what is wanted is reduced to one or two numbers per row, and the logits go.
No second B x T x V tensor ever exists: where the head trains, each chunk is computed again in the backward pass (one matrix in
float32 may keep its probabilities, see :mod:`bakeoff.envs.language_model.linear_logprobs`); where it is frozen, the
gradient of a row's numbers by the row's own hidden state is all that the backward pass can need, and
is kept in the logits' place.

Letters: N rows (real tokens of a batch), D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bakeoff.envs.language_model.linear_logprobs import LinearHead

CHUNK_ELEMENTS = 2**20
"""Logits held at once by the narrowest models: 4 MiB in float32, so that the passes over them stay in a processor's cache."""

ACCELERATOR_ELEMENTS = 2**26
"""CHUNK_ELEMENTS where the passes are launched on another device, 256 MiB: a launch costs more than a cache would save."""

Head = Callable[[Tensor], Tensor]
"""Hidden states (.., D) to masked float32 logits (.., V)."""


def rows_in_a_chunk(hidden_ND: Tensor, vocabulary: int) -> int:
    """How many rows of logits are held at once.

    On a processor a chunk of few rows stays in the cache, and a chunk of many reads the head's matrix less often. The matrix
    weighs more the wider the model is, so the chunk grows with the root of the width, up to four times (where 24, 64, 128 and
    576 were fastest on two cores with 32 MiB of cache at a vocabulary of 49k).
    """
    if hidden_ND.device.type != "cpu":
        return max(1, ACCELERATOR_ELEMENTS // vocabulary)
    growth = min(max((hidden_ND.shape[-1] / 24) ** 0.5, 1.0), 4.0)
    return max(1, int(CHUNK_ELEMENTS * growth) // vocabulary)


def over_chunks(
    function: Callable[..., Tensor],
    rows: tuple[Tensor, ...],
    vocabulary: int,
    *,
    differentiate: Sequence[int] | None = None,
) -> Tensor:
    """``function(*rows)``, a chunk of rows at a time, results joined along the first dimension.

    Args:
        function: maps tensors of n rows to a matrix of n rows, each row from its own inputs alone.
        rows: tensors of N rows each; the first holds the hidden states.
        vocabulary: V, which fixes how many rows are one chunk.
        differentiate: columns of the result whose gradient by the first of ``rows`` is all that is ever needed; None where
            the head's weights train too.
    """
    size = rows_in_a_chunk(rows[0], vocabulary)
    chunks = list(zip(*(torch.split(x, size) for x in rows), strict=True))
    if torch.is_grad_enabled() and differentiate is not None and rows[0].requires_grad:
        parts = [_WithRowGradients.apply(function, differentiate, *chunk) for chunk in chunks]  # type: ignore[no-untyped-call]
    elif torch.is_grad_enabled() and len(chunks) > 1:
        parts = [checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    else:
        parts = [function(*chunk) for chunk in chunks]
    return torch.cat(parts)


class _WithRowGradients(torch.autograd.Function):
    """Runs a function of rows, and right away differentiates some of its columns by the first input."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], columns: Sequence[int], hidden_ND: Tensor, *others: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            leaf = hidden_ND.detach().requires_grad_()
            result_NK = function(leaf, *others)
            # Rows do not mix, so the gradient of a column's sum holds each row's own gradient.
            sums = [(result_NK[:, k].sum(), k != columns[-1]) for k in columns]
            gradients = [torch.autograd.grad(total, leaf, retain_graph=more)[0] for total, more in sums]
        ctx.columns = columns
        ctx.save_for_backward(*gradients)
        return result_NK.detach()

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor | None, ...]:
        (received_NK,) = received
        products = [received_NK[:, k, None] * g for k, g in zip(ctx.columns, ctx.saved_tensors, strict=True)]
        return (None, None, sum(products[1:], products[0]), *[None] * (len(ctx.needs_input_grad) - 3))


class _TokenLogprobs(torch.autograd.Function):
    """Logits to two columns: log-probability of each row's chosen token, and entropy (0 where it is not requested).

    Written out by hand since a pass over N x V numbers is what an update of a small model consists of: one softmax serves the
    normalizer, the entropy and the gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, tokens_N: Tensor, entropy: bool, entropy_gradient: bool) -> Tensor:
        p_NV = logits_NV.softmax(1)
        normalizer_N1 = logits_NV.amax(1, keepdim=True) - p_NV.amax(1, keepdim=True).log()
        mean_N1 = (p_NV * logits_NV).sum(1, keepdim=True) if entropy else normalizer_N1
        ctx.entropy_gradient = entropy_gradient
        ctx.save_for_backward(tokens_N, p_NV, *((logits_NV, mean_N1) if entropy_gradient else ()))
        return torch.cat([logits_NV.gather(1, tokens_N[:, None]) - normalizer_N1, normalizer_N1 - mean_N1], 1)

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor | None, ...]:
        (received_N2,) = received
        tokens_N, p_NV, *rest = ctx.saved_tensors
        chosen_N1, entropy_N1 = received_N2[:, :1], received_N2[:, 1:]
        # d log p(c) / d x_v = [v = c] - p_v, and d H / d x_v = -p_v (x_v - E[x]).
        weight = -chosen_N1
        if ctx.entropy_gradient:
            logits_NV, mean_N1 = rest
            weight = weight - entropy_N1 * (logits_NV - mean_N1)
        return (p_NV * weight).scatter_add_(1, tokens_N[:, None], chosen_N1.contiguous()), *[None] * 3


def chosen_logprobs(
    head: Head, hidden_ND: Tensor, tokens_N: Tensor, vocabulary: int, *, frozen_head: bool = False
) -> Tensor:
    """Log-probability of each chosen token, shape (N,)."""
    return _token_logprobs(head, hidden_ND, tokens_N, vocabulary, frozen_head, entropy=False, entropy_gradient=False)[
        :, 0
    ]


def logprobs_and_entropy(
    head: Head,
    hidden_ND: Tensor,
    tokens_N: Tensor,
    vocabulary: int,
    *,
    entropy_gradient: bool = True,
    frozen_head: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each chosen token and entropy (nats) of its distribution, each (N,).

    Args:
        head: hidden states to logits.
        hidden_ND: hidden states.
        tokens_N: the chosen tokens.
        vocabulary: V.
        entropy_gradient: whether the entropies are differentiable.
        frozen_head: the head has no weights that train.
    """
    both = _token_logprobs(
        head, hidden_ND, tokens_N, vocabulary, frozen_head, entropy=True, entropy_gradient=entropy_gradient
    )
    return both[:, 0], both[:, 1] if entropy_gradient else both[:, 1].detach()


def _token_logprobs(
    head: Head,
    hidden_ND: Tensor,
    tokens_N: Tensor,
    vocabulary: int,
    frozen_head: bool,
    *,
    entropy: bool,
    entropy_gradient: bool,
) -> Tensor:
    if isinstance(head, LinearHead) and not entropy_gradient:
        return head.token_logprobs(hidden_ND, tokens_N, rows_in_a_chunk(hidden_ND, vocabulary), entropy=entropy)

    def one(hidden: Tensor, tokens: Tensor) -> Tensor:
        pair: Tensor = _TokenLogprobs.apply(head(hidden), tokens, entropy, entropy_gradient)  # type: ignore[no-untyped-call]
        return pair

    columns = (0, 1) if entropy_gradient else (0,)
    return over_chunks(one, (hidden_ND, tokens_N), vocabulary, differentiate=columns if frozen_head else None)


def kl_entropy_and_other_logprobs(
    head: Head, hidden_ND: Tensor, other_head: Head, other_ND: Tensor, tokens_N: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(p || q) and the entropy of p in nats, over the whole vocabulary, and log q of each chosen token, each (N,)."""

    def one(hidden: Tensor, other: Tensor, tokens: Tensor) -> Tensor:
        return compare(head(hidden).log_softmax(1), other_head(other).log_softmax(1), tokens)

    kl_N, entropy_N, chosen_N = over_chunks(one, (hidden_ND, other_ND, tokens_N), vocabulary).unbind(1)
    return kl_N, entropy_N, chosen_N


def compare(logp_NV: Tensor, logq_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """KL(p || q) and the entropy of p in nats, and log q of each chosen token, side by side, shape (N, 3)."""
    p_NV, chosen_N = logp_NV.exp(), logq_NV.gather(1, tokens_N[:, None])[:, 0]
    return torch.stack([(p_NV * (logp_NV - logq_NV)).sum(1), -(p_NV * logp_NV).sum(1), chosen_N], 1)
