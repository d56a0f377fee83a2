"""The usual head, one matrix in float32, written out: most of what an update of a small model costs is here.

Same results as :mod:`bakeoff.envs.language_model.logprobs`'s general path, which autograd
differentiates, with fewer passes over N x V numbers: one buffer serves all chunks, the matrix's gradient is added up in
place, and where the head is frozen the gradient of each row's log-probability by its own hidden state is kept in the logits' place.

Letters: N rows (real tokens of a batch), D hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KEPT_ELEMENTS = 2**27
"""Probabilities kept from the forward to the backward pass (512 MiB); a larger batch computes them a second time."""

KEPT_WIDTH = 96
"""So does a model narrower than this: fresh memory costs more than so short a product."""


@dataclass(frozen=True)
class LinearHead:
    """Hidden states to logits by one matrix."""

    weight_VD: Tensor
    """The matrix, float32."""
    forbidden: Tensor
    """Ids of tokens that are never sampled."""
    lowest: float
    """The logit they get."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits (.., V)."""
        logits = torch.nn.functional.linear(hidden, self.weight_VD)
        return logits.index_fill_(-1, self.forbidden, self.lowest) if len(self.forbidden) else logits

    def into(self, hidden_ND: Tensor, out_NV: Tensor) -> Tensor:
        """Logits (N, V) in a tensor that is there already; no gradients."""
        torch.mm(hidden_ND, self.weight_VD.t(), out=out_NV)
        return out_NV.index_fill_(1, self.forbidden, self.lowest) if len(self.forbidden) else out_NV

    def token_logprobs(self, hidden_ND: Tensor, tokens_N: Tensor, rows: int, *, entropy: bool) -> Tensor:
        """Log-probability of each row's chosen token, and entropy (not differentiable; 0 where not requested), shape (N, 2).

        Args:
            hidden_ND: hidden states.
            tokens_N: the chosen tokens.
            rows: how many rows of logits are held at once.
            entropy: whether to compute it.
        """
        pair: Tensor = _TokenLogprobs.apply(hidden_ND, self.weight_VD, self, tokens_N, rows, entropy)  # type: ignore[no-untyped-call]
        return pair


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, head: LinearHead, tokens_N: Tensor, rows: int, entropy: bool
    ) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        affordable = len(hidden_ND) * len(weight_VD) <= KEPT_ELEMENTS
        keeps = needs_weight and affordable and hidden_ND.shape[1] >= KEPT_WIDTH
        logits, buffer = _buffers(hidden_ND, weight_VD, rows, 1 if keeps else 2)
        kept_NV = hidden_ND.new_empty(len(hidden_ND), len(weight_VD)) if keeps else None
        result_N2 = hidden_ND.new_zeros(len(hidden_ND), 2)
        slopes_ND = torch.empty_like(hidden_ND) if needs_hidden and not needs_weight else None
        for part in _parts(len(hidden_ND), rows):
            x, p = logits[: part.stop - part.start], (buffer if kept_NV is None else kept_NV[part])
            p = p[: len(x)]
            chosen = tokens_N[part, None]
            torch.softmax(head.into(hidden_ND[part], x), 1, out=p)
            normalizer = x.amax(1, keepdim=True) - p.amax(1, keepdim=True).log()
            result_N2[part, :1] = x.gather(1, chosen) - normalizer
            if entropy:
                result_N2[part, 1:] = normalizer - x.mul_(p).sum(1, keepdim=True)
            if slopes_ND is not None:
                # d log p(c) / d h = W_c - sum_v p_v W_v
                torch.sub(weight_VD[chosen[:, 0]], p @ weight_VD, out=slopes_ND[part])
        ctx.head, ctx.rows, ctx.kept_NV = head, rows, kept_NV
        ctx.save_for_backward(hidden_ND, weight_VD, tokens_N, slopes_ND)
        return result_N2

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor | None, ...]:
        received_N1 = received[0][:, :1]
        hidden_ND, weight_VD, tokens_N, slopes_ND = ctx.saved_tensors
        if slopes_ND is not None:
            return received_N1 * slopes_ND, *[None] * 5
        gradient_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        gradient_VD = torch.zeros_like(weight_VD)
        x, buffer = _buffers(hidden_ND, weight_VD, ctx.rows, 1 if ctx.kept_NV is not None else 2)
        for part in _parts(len(hidden_ND), ctx.rows):
            count = part.stop - part.start
            if ctx.kept_NV is None:
                torch.softmax(ctx.head.into(hidden_ND[part], x[:count]), 1, out=buffer[:count])
            p = buffer[:count] if ctx.kept_NV is None else ctx.kept_NV[part]
            # d log p(c) / d x_v = [v = c] - p_v
            slope = torch.mul(p, -received_N1[part], out=x[:count])
            slope.scatter_add_(1, tokens_N[part, None], received_N1[part].contiguous())
            if gradient_ND is not None:
                torch.mm(slope, weight_VD, out=gradient_ND[part])
            gradient_VD.addmm_(slope.t(), hidden_ND[part])
        return gradient_ND, gradient_VD, *[None] * 4


def _buffers(hidden_ND: Tensor, weight_VD: Tensor, rows: int, count: int) -> tuple[Tensor, Tensor]:
    """Room for the logits of a chunk, and for its probabilities if ``count`` is 2."""
    buffers = hidden_ND.new_empty(count, min(rows, len(hidden_ND)), len(weight_VD))
    return buffers[0], buffers[-1]


def _parts(total: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, total)) for start in range(0, total, rows)]
