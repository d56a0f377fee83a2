"""Sampling completions with a key-value cache, one uniform number a token.

Inverse-CDF sampling needs one random number a row where ``multinomial`` needs one a vocabulary entry. All of them are
drawn before the first token, row by row, so what a row samples depends on its own uniforms alone: not on the batch it
stands in, its padding, or when its neighbours end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bakeoff.envs.completions import Completions, PromptBatch
from bakeoff.errors import UserError

if TYPE_CHECKING:
    from bakeoff.envs.language_model import LanguageModel


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompts: PromptBatch,
    max_new_tokens: int,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Completions:
    """One completion for each prompt.

    Args:
        model: the language model.
        prompts: B left-padded prompts.
        max_new_tokens: T, the length limit.
        generator: a CPU generator; B x T uniforms are drawn from it whatever the lengths turn out to be.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens with at least this mass.

    Returns:
        Completions whose ``logprobs_BT`` are those of the distribution sampled from (after temperature and filters).
    """
    check_sampling(temperature, top_k, top_p)
    rows = len(prompts)
    uniforms_BT = torch.rand(rows, max_new_tokens, generator=generator).to(model.device)
    tokens_BT = torch.full((rows, max_new_tokens), model.pad_id, device=model.device)
    mask_BT = torch.zeros(rows, max_new_tokens, dtype=torch.bool, device=model.device)
    logprobs_BT = torch.zeros(rows, max_new_tokens, device=model.device)
    eos = torch.tensor(model.eos_ids, device=model.device)

    prompt_mask_BP = prompts.mask_BP.to(model.device)
    seen_BS = torch.cat([prompt_mask_BP, torch.ones_like(mask_BT)], 1).long()
    length = prompt_mask_BP.shape[1]
    alive_B = torch.ones(rows, dtype=torch.bool, device=model.device)
    hidden_BD, cache = model.prefill(prompts.tokens_BP.to(model.device), prompt_mask_BP)
    position_B = seen_BS[:, :length].sum(1)
    for t in range(max_new_tokens):
        logprobs_BV = filter_logits(model.head(hidden_BD), temperature, top_k, top_p).log_softmax(1)
        token_B = inverse_cdf(logprobs_BV, uniforms_BT[:, t])
        tokens_BT[alive_B, t] = token_B[alive_B]
        mask_BT[:, t] = alive_B
        logprobs_BT[:, t] = logprobs_BV.gather(1, token_B[:, None])[:, 0] * alive_B
        alive_B = alive_B & ~torch.isin(token_B, eos)
        if t + 1 == max_new_tokens or not bool(alive_B.any()):
            break
        hidden_BD = model.decode_step(token_B, seen_BS[:, : length + t + 1], position_B + t, cache)
    return Completions(_to(prompts, model.device), tokens_BT, mask_BT, logprobs_BT)


def inverse_cdf(logprobs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The token whose slice of the cumulative distribution holds the row's uniform number, shape (B,).

    A token of probability 0 has an empty slice and is never chosen.
    """
    cdf_BV = logprobs_BV.exp().cumsum(1)
    # The last entry is 1 up to rounding: scaling by it keeps every uniform below 1 inside the table.
    wanted_B1 = (uniforms_B * cdf_BV[:, -1])[:, None]
    chosen_B = torch.searchsorted(cdf_BV, wanted_B1, right=True)[:, 0]
    # Scaling may round up to the last entry itself; then the last token with any mass is meant.
    last_B = torch.searchsorted(cdf_BV, cdf_BV[:, -1:].contiguous(), right=False)[:, 0]
    return torch.minimum(chosen_B, last_B)


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


def _to(prompts: PromptBatch, device: Any) -> PromptBatch:
    return PromptBatch(prompts.tokens_BP.to(device), prompts.mask_BP.to(device), prompts.indices_B.to(device))
