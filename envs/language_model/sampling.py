"""Sampling completions with a key-value cache, one uniform number per token.

Inverse-CDF sampling needs one random number per row where ``multinomial`` needs one per vocabulary entry. All of them
are drawn before the first token, row by row, so a row's sample depends on its own uniforms alone: not on the other rows
of the batch, its padding, or when other rows end.

A pass over B x V numbers costs as much as a small model's forward pass, so a token costs two and no more: one softmax, and
one sum over blocks of the vocabulary. The block that holds the row's uniform is found first, then the token inside it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.linear_logprobs import LinearHead
from bakeoff.envs.language_model.logprobs import rows_in_a_chunk
from bakeoff.envs.precision import accurate
from bakeoff.errors import UserError

BLOCK = 128
"""Tokens in a block of the vocabulary."""


class CachedModel(Protocol):
    """What sampling needs of a language model."""

    vocab_size: int
    pad_id: int
    eos_ids: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...

    @property
    def plain_head(self) -> LinearHead | None:
        """The head where it is one float32 matrix and nothing else."""
        ...

    def head(self, hidden: Tensor, /) -> Tensor:
        """Hidden states (.., D) to logits (.., V)."""
        ...

    def prefill(self, tokens_BP: Tensor, mask_BP: Tensor, /) -> tuple[Tensor, Any]:
        """The hidden state of each prompt's last token (B, D) and the key-value cache."""
        ...

    def decode_step(self, token_B: Tensor, mask_BS: Tensor | None, position_B: Tensor, cache: Any, /) -> Tensor:
        """Read one more token per row; the hidden states (B, D)."""
        ...


@torch.no_grad()
def sample(
    model: CachedModel,
    prompts: PromptBatch,
    uniforms_BT: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Completions:
    """One completion for each prompt.

    Args:
        model: the language model.
        prompts: B left-padded prompts.
        uniforms_BT: numbers from 0, below 1, one for each token that there may be; T is the length limit.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens with at least this mass.

    Returns:
        Completions whose ``logprobs_BT`` are the model's; None where temperature or a filter changed the distribution, since
        a ratio to the distribution sampled from would be wrong.
    """
    check_sampling(temperature, top_k, top_p)
    true_distribution = temperature == 1 and top_k == 0 and top_p == 1
    rows, max_new_tokens = uniforms_BT.shape
    uniforms_BT = uniforms_BT.to(model.device)
    tokens_BT = torch.full((rows, max_new_tokens), model.pad_id, device=model.device)
    mask_BT = torch.zeros(rows, max_new_tokens, dtype=torch.bool, device=model.device)
    logprobs_BT = torch.zeros(rows, max_new_tokens, device=model.device)
    eos = torch.tensor(model.eos_ids, device=model.device)

    prompt_mask_BP = prompts.mask_BP.to(model.device)
    seen_BS = torch.cat([prompt_mask_BP, torch.ones_like(mask_BT)], 1).long()
    length, padded = prompt_mask_BP.shape[1], not bool(prompt_mask_BP.all())
    alive_B = torch.ones(rows, dtype=torch.bool, device=model.device)
    hidden_BD, cache = model.prefill(prompts.tokens_BP.to(model.device), prompt_mask_BP)
    position_B = seen_BS[:, :length].sum(1)
    at_once = min(rows, rows_in_a_chunk(hidden_BD, model.vocab_size))
    chances_NV = torch.empty(at_once, model.vocab_size, device=model.device)
    for t in range(max_new_tokens):
        token_B, chance_B = choose(model, hidden_BD, uniforms_BT[:, t], temperature, top_k, top_p, chances_NV)
        tokens_BT[:, t] = torch.where(alive_B, token_B, model.pad_id)
        mask_BT[:, t] = alive_B
        logprobs_BT[:, t] = torch.where(alive_B, chance_B.log(), 0.0)
        alive_B = alive_B & ~torch.isin(token_B, eos)
        if t + 1 == max_new_tokens or not bool(alive_B.any()):
            break
        # Rows that have ended read padding, so that the audit of generated tokens can tell them from rows that continue.
        hidden_BD = model.decode_step(
            tokens_BT[:, t], seen_BS[:, : length + t + 1] if padded else None, position_B + t, cache
        )
    logprobs = logprobs_BT if true_distribution else None
    return Completions(prompts.to(model.device), tokens_BT, mask_BT, logprobs)


def choose(
    model: CachedModel,
    hidden_BD: Tensor,
    uniforms_B: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    chances_NV: Tensor,
) -> tuple[Tensor, Tensor]:
    """The next token of each row and its probability, each (B,), as many rows at a time as the table ``chances_NV`` has.

    The table is the caller's, for use in every step: asking the system for memory of this size costs more than the softmax,
    and a second table would not fit the cache beside it.
    """
    tokens, chances = [], []
    size, head = len(chances_NV), model.plain_head
    for hidden, uniforms in zip(torch.split(hidden_BD, size), torch.split(uniforms_B, size), strict=True):
        table = chances_NV[: len(hidden)]
        logits = model.head(hidden) if head is None else head.into(hidden, table)
        probabilities = torch.softmax(filter_logits(logits, temperature, top_k, top_p), 1, out=table)
        token = inverse_cdf(probabilities, uniforms)
        tokens.append(token)
        chances.append(probabilities.gather(1, token[:, None])[:, 0])
    return torch.cat(tokens), torch.cat(chances)


def inverse_cdf(probabilities_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The token whose slice of the cumulative distribution holds the row's uniform number, shape (B,).

    A token of probability 0 has an empty slice and is never chosen.

    Args:
        probabilities_BV: not negative; they need not add up to 1 exactly.
        uniforms_B: from 0, below 1.
    """
    vocabulary = probabilities_BV.shape[1]
    whole = vocabulary // BLOCK * BLOCK
    sums = torch.unflatten(probabilities_BV[:, :whole], 1, (-1, BLOCK)).sum(2)
    if whole < vocabulary:
        sums = torch.cat([sums, probabilities_BV[:, whole:].sum(1, keepdim=True)], 1)
    block_cdf = sums.cumsum(1, dtype=accurate(sums.device))
    if not bool(torch.isfinite(block_cdf[:, -1]).all()):
        raise FloatingPointError(
            "the model's probabilities are not finite: its weights have diverged; lower learning_rate"
        )
    # The last entry is 1 up to rounding: scaling by it keeps every uniform below 1 inside the table.
    wanted_B1 = uniforms_B[:, None] * block_cdf[:, -1:]
    block_B1 = torch.searchsorted(block_cdf, wanted_B1, right=True).clamp_max(sums.shape[1] - 1)
    wanted_B1 -= block_cdf.gather(1, block_B1) - sums.gather(1, block_B1)
    inside = block_B1 * BLOCK + torch.arange(BLOCK, device=block_B1.device)
    members = probabilities_BV.gather(1, inside.clamp_max(vocabulary - 1)) * (inside < vocabulary)
    member_cdf = members.cumsum(1, dtype=accurate(sums.device))
    member_B1 = torch.searchsorted(member_cdf, wanted_B1, right=True)
    # The block's sum was rounded: what is wanted may lie beyond its members'. Then the last one with any mass is meant.
    last_B1 = torch.searchsorted(member_cdf, member_cdf[:, -1:].contiguous(), right=False)
    return (block_B1 * BLOCK + torch.minimum(member_B1, last_B1))[:, 0]


def filter_logits(logits_BV: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Logits after temperature, top-k and top-p; removed tokens get the lowest finite value."""
    lowest = torch.finfo(logits_BV.dtype).min
    if temperature == 0:
        best = logits_BV.argmax(1, keepdim=True)
        return torch.full_like(logits_BV, lowest).scatter(1, best, 0.0)
    if temperature != 1:
        logits_BV = logits_BV / temperature
    if 0 < top_k < logits_BV.shape[1]:
        threshold = logits_BV.topk(top_k, 1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < threshold, lowest)
    if top_p < 1:
        ordered, order = logits_BV.sort(1, descending=True)
        probabilities = ordered.softmax(1)
        outside = probabilities.cumsum(1) - probabilities >= top_p
        logits_BV = logits_BV.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), lowest)
    return logits_BV


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """Refuse settings that define no distribution."""
    if not temperature >= 0:
        raise UserError(f"temperature is {temperature}, expected 0 or more")
    if top_k < 0:
        raise UserError(f"top_k is {top_k}, expected 0 (all tokens) or more")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}, expected above 0 and at most 1")
