"""What a model family can do, compared once with the family's own forward pass instead of assumed."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from bakeoff.envs.language_model.batching import DistinctPrompts
from bakeoff.envs.language_model.cache_names import CACHE_NAMES, cache_argument
from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.forward import ForwardPasses
from bakeoff.envs.language_model.split_trunk import SplitTrunk
from bakeoff.errors import ModelError


def find_cache_argument(model: ForwardPasses) -> str:
    """The name by which the model's trunk takes its key-value cache.

    Raises:
        ModelError: a family that takes none.
    """
    name = cache_argument(model.trunk.forward)
    if name is None:
        raise ModelError(
            f'the forward pass of "{model.name}" ({type(model.module).__name__}) takes no key-value cache '
            f"({' or '.join(CACHE_NAMES)}); this model family is not supported"
        )
    return name


@torch.no_grad()
def check_head(model: ForwardPasses, start_id: int) -> None:
    """Compare ``head(hidden)`` with the model's own logits on three tokens, ``start_id`` first.

    Raises:
        ModelError: a head that is not a function of the last hidden state alone.
    """
    tokens = torch.tensor([[start_id, 0, min(1, model.vocab_size - 1)]], device=model.device)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    ours = model.head(model.hidden(tokens, mask))
    theirs = model.module(tokens, attention_mask=mask.long()).logits.float()
    allowed = model.allowed_V
    if not torch.allclose(ours[..., allowed], theirs[..., allowed], atol=1e-2, rtol=1e-2):
        raise ModelError(
            f'the logits of "{model.name}" ({type(model.module).__name__}) are not a function of its last hidden state '
            "that we know; this model family is not supported"
        )


@torch.no_grad()
def continues_prompts(model: ForwardPasses) -> bool:
    """Whether completions can be read after prompts that are in the cache."""
    tokens, mask = _padded_rows(model)
    length = tokens.shape[1]
    whole, prompt = model.hidden(tokens, mask), length // 2
    prompts = PromptBatch(tokens[:, :prompt], mask[:, :prompt], torch.arange(2))
    completions = Completions(prompts, tokens[:, prompt:], mask[:, prompt:])
    try:
        _, cache = model.read_prompts(prompts.tokens_BP, prompts.mask_BP)
        if not all(type(layer) is DynamicLayer for layer in cache.layers):
            return False  # a sliding window, or a state without rows of its own
        one_each = DistinctPrompts(torch.arange(2), torch.arange(2))
        parts = model.reader_after(one_each, prompts)(completions, torch.arange(2))
    except Exception:  # an unforeseen family's code may raise anything
        return False
    wanted = whole[:, prompt - 1 : length - 1]
    difference = float((parts - wanted).abs().max() / wanted.abs().max())
    return bool(difference <= torch.finfo(whole.dtype).eps ** 0.5)


@torch.no_grad()
def split_trunk(model: ForwardPasses, top_layers: int) -> SplitTrunk:
    """The model's trunk cut below its ``top_layers`` highest blocks.

    Raises:
        ModelError: too few blocks, or a family whose blocks cannot be run in two parts.
    """
    split = SplitTrunk(model.trunk, top_layers, model.name)
    tokens, mask = _padded_rows(model)
    split.check(model.hidden(tokens, mask), tokens, mask, **model.masked_inputs(mask))
    return split


def _padded_rows(model: ForwardPasses) -> tuple[Tensor, Tensor]:
    """Two short rows of tokens and their mask, the first left-padded, as in every batch."""
    length = min(8, model.max_context)
    tokens = torch.arange(2 * length, device=model.device).reshape(2, length) % model.vocab_size
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, : length // 3] = False
    return tokens, mask
