"""What a model family can do, compared once with the family's own forward pass instead of assumed."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from bakeoff.envs.language_model.batching import DistinctPrompts
from bakeoff.envs.language_model.cache_names import CACHE_NAMES, cache_argument
from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.float32 import computing_in_float32
from bakeoff.envs.language_model.forward import ForwardPasses
from bakeoff.envs.language_model.loading import first_line
from bakeoff.envs.language_model.split_trunk import SplitTrunk
from bakeoff.errors import ModelError

READING_TOLERANCE = 1000 * torch.finfo(torch.float32).eps
"""Largest difference between two ways of reading the same tokens that counts as rounding, relative to the hidden states' size."""


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
    try:
        ours = model.head(model.hidden(tokens, mask))
        theirs = model.module(tokens, attention_mask=mask.long()).logits.float()
    except Exception as error:  # an unforeseen family's code may raise anything
        dtype = str(model.module.dtype).removeprefix("torch.")
        remedy = "this model family is not supported" if dtype == "float32" else "use dtype: float32"
        raise ModelError(
            f'"{model.name}" ({type(model.module).__name__}) cannot compute in {dtype} ({first_line(error)}); {remedy}'
        ) from error
    allowed = model.allowed_V
    if not bool(torch.isfinite(theirs[..., allowed]).all()):
        raise ModelError(not_finite(model))
    if not torch.allclose(ours[..., allowed], theirs[..., allowed], atol=1e-2, rtol=1e-2):
        raise ModelError(
            f'the logits of "{model.name}" ({type(model.module).__name__}) are not a function of its last hidden state '
            "that we know; this model family is not supported"
        )


@torch.no_grad()
def check_reading(model: ForwardPasses) -> None:
    """Compare left-padded rows, in one pass and by prefill and decode, with each row alone, unpadded and in one pass.

    A state that reads the padding, or a cache that does not continue it, gives other log-probabilities in each batch. Both sides
    are the same sums in another order, so their rounding adds up as the square root of its number does: a hundred blocks of ten
    roundings make some 30 epsilon, and 300 in a family whose blocks amplify it tenfold. :data:`READING_TOLERANCE` is three times
    that in float32. A half-precision trunk is compared in float32 too, since its own rounding would hide a fault; where it cannot
    compute so, in its own type and up to the square root of epsilon.

    Raises:
        ModelError: they differ.
    """
    tolerance = READING_TOLERANCE
    mode: AbstractContextManager[None] = nullcontext()
    if model.module.dtype != torch.float32:
        mode = computing_in_float32(model.trunk)
    try:
        with mode:
            whole, steps = _reading_differences(model)
    except Exception:  # an unforeseen family's code may raise anything
        tolerance = torch.finfo(model.module.dtype).eps ** 0.5
        try:
            whole, steps = _reading_differences(model)
        except Exception as error:
            raise ModelError(
                f'"{model.name}" ({type(model.module).__name__}) cannot read a padded batch token by token '
                f"({first_line(error)}); this model family is not supported"
            ) from error
    if whole <= tolerance and steps <= tolerance:
        return
    if not (math.isfinite(whole) and math.isfinite(steps)):
        raise ModelError(not_finite(model))
    what = "its cache does not continue a padded text" if whole <= tolerance else "padding on the left changes it"
    raise ModelError(
        f'"{model.name}" ({type(model.module).__name__}) reads a batch in another way than its rows alone: {what} (hidden states '
        f"differ by {max(whole, steps):.1e} of their size, rounding by {tolerance:.0e} at most); this model family is not supported"
    )


def _reading_differences(model: ForwardPasses) -> tuple[float, float]:
    """How far padded rows are from rows alone, relative to their size: read in one pass, and by prefill and decode."""
    length = min(20, model.max_context)
    steps = min(12, length - 2)  # a wrong state drifts away step by step
    prompt, padding = length - steps, length - steps - 2  # one text is shorter than a convolution's window
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocab_size, (2, length), generator=draws).to(model.device)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :padding] = False
    alone = torch.cat([
        nn.functional.pad(
            model.trunk(tokens[row : row + 1, start:], use_cache=False).last_hidden_state, (0, 0, start, 0)
        )
        for row, start in ((0, padding), (1, 0))
    ])  # fmt: skip
    together = model.hidden(tokens, mask)
    last, cache = model.read_prompts(tokens[:, :prompt], mask[:, :prompt])
    hidden, position_B = [last], mask[:, :prompt].sum(1)
    for t in range(prompt, length):
        hidden.append(model.decode_step(tokens[:, t], mask[:, : t + 1], position_B + t - prompt, cache))
    return (
        _relative(together[mask], alone[mask]),
        _relative(torch.stack(hidden, 1), alone[:, prompt - 1 :]),
    )


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square of the difference, relative to that of ``theirs``."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def not_finite(model: ForwardPasses) -> str:
    """A message for a model whose hidden states are not finite: its weights, or what it makes of them in this type."""
    broken = next((name for name, p in model.module.named_parameters() if not bool(torch.isfinite(p).all())), None)
    if broken is not None:
        return f'"{model.name}" holds numbers that are not finite, in {broken} first; take a checkpoint from before it diverged'
    return f'"{model.name}" computes numbers that are not finite in {str(model.module.dtype)[6:]}; use dtype: bfloat16 or float32'


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
