"""The forward passes of a causal language model: trunk, key-value cache and head.

A prompt that several rows of a batch have is read once where that pays, and rows of similar length are read together.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from bakeoff import distributed
from bakeoff.envs.language_model.batching import DistinctPrompts, length_parts, select_rows, tokens_worth_a_pass
from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.gradient_checkpointing import GradientCheckpoints
from bakeoff.envs.language_model.linear_logprobs import LinearHead
from bakeoff.envs.language_model.split_trunk import SplitTrunk

LOWEST_LOGIT = -1e9
"""Logit of a forbidden token: its probability is exactly 0, and differences of such logits stay finite."""

SIZE_STEP = 16
"""Columns to whose multiples prompts and completions are padded in half precision."""


class ForwardPasses:
    """The half of a language model that is its module."""

    module: Any
    """A transformers ``...ForCausalLM`` in eval mode."""
    name: str
    """The model's name in messages."""
    pad_id: int
    """The token that fills a batch."""
    vocab_size: int
    """Tokens that the head scores."""
    max_context: int
    """Longest prompt and completion together."""
    width: int
    """Size of a hidden state."""
    allowed_V: Tensor
    """True for the tokens that may be sampled."""
    split: SplitTrunk | None = None
    """The trunk cut in two, where only the blocks above the cut train."""
    shares_prompts: bool = False
    """Whether completions of this family can be read after a prompt in the cache."""
    cache_argument: str
    """The name by which the trunk takes its key-value cache."""
    row_counter: Callable[[int], AbstractContextManager[None]] | None = None
    """Counts the real tokens of rows that are read with gradients, and inside not those of the passes that read them."""
    _checkpoints: GradientCheckpoints | None = None

    @property
    def trunk(self) -> Any:
        """The module without its head."""
        return self.module.base_model

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.module.device
        return device

    # ---------------------------------------------------------------- whole sequences

    def hidden(self, tokens_BS: Tensor, mask_BS: Tensor, features_BSD: Tensor | None = None) -> Tensor:
        """Final hidden states, what the head reads, shape (B, S, D); differentiable unless gradients are off.

        Args:
            tokens_BS: token ids.
            mask_BS: the real tokens.
            features_BSD: activations at the cut, where the trunk is split: only the blocks above it run then.
        """
        inputs = self.masked_inputs(mask_BS)
        with nullcontext() if self._checkpoints is None else self._checkpoints.active():
            if self.split is not None and features_BSD is not None:
                return self.split.hidden(features_BSD, tokens_BS, **inputs)
            hidden: Tensor = self.trunk(tokens_BS, use_cache=False, **inputs).last_hidden_state
        return hidden

    def completion_hidden(self, completions: Completions) -> Tensor:
        """The hidden states that predict each completion token, shape (B, T', D), T' the longest real completion.

        Columns that are padding in all rows read together are cut. Values where a row has no token mean nothing. In half precision
        a row's values do not depend on the rows that are read with it: there a ratio or a KL of passes over other batches would
        hold more of their rounding than of the policy.
        """
        if not torch.is_grad_enabled() and distributed.should_shard(len(completions)):
            return self._completion_hidden_sharded(completions)
        if self.row_counter is None or not torch.is_grad_enabled():
            return self._completion_hidden(completions)
        with self.row_counter(int(completions.sequence_mask_BS.sum())):
            return self._completion_hidden(completions)

    def _completion_hidden(self, completions: Completions) -> Tensor:
        if self.module.dtype != torch.float32:
            return self._completion_hidden_by_size(completions)
        prompts, device = completions.prompts, self.device
        lengths_B = completions.lengths_B
        longest = int(lengths_B.max())
        shared: DistinctPrompts | None = None
        read: Callable[[Completions, Tensor], Tensor] = self._read_together
        if completions.features_BSD is None and (self._checkpoints is None or not torch.is_grad_enabled()):
            shared = self.distinct_prompts(prompts.tokens_BP, prompts.mask_BP)
        totals_B = lengths_B + prompts.mask_BP.sum(1)
        if shared is not None:
            read, totals_B = self.reader_after(shared, prompts), lengths_B
        parts = length_parts(totals_B.tolist(), tokens_worth_a_pass(self.width, self.device))
        if len(parts) == 1:
            return read(completions, torch.arange(len(completions)))
        rows_B = torch.tensor([row for part in parts for row in part])
        hidden = [read(completions, rows) for rows in torch.split(rows_B, [len(part) for part in parts])]
        padded = [nn.functional.pad(one, (0, 0, 0, longest - one.shape[1])) for one in hidden]
        return torch.cat(padded)[rows_B.argsort().to(device)]

    def _completion_hidden_by_size(self, completions: Completions) -> Tensor:
        """As :meth:`completion_hidden`, each row padded to a size that its own prompt and completion decide, and rows of one size
        read together."""
        own = torch.stack([completions.prompts.mask_BP.sum(1).cpu(), completions.lengths_B.cpu()], 1).clamp_min(1)
        sizes_U2, size_B = torch.unique(own.add(SIZE_STEP - 1) // SIZE_STEP * SIZE_STEP, dim=0, return_inverse=True)
        longest = int(completions.lengths_B.max())
        groups = [(size_B == size).nonzero()[:, 0] for size in range(len(sizes_U2))]
        hidden = [
            self._read_together(completions, rows, tuple(sizes_U2[size].tolist())) for size, rows in enumerate(groups)
        ]
        fitted = [nn.functional.pad(one, (0, 0, 0, longest - one.shape[1])) for one in hidden]  # a negative width cuts
        return torch.cat(fitted)[torch.cat(groups).argsort().to(self.device)]

    def _completion_hidden_sharded(self, completions: Completions) -> Tensor:
        """As :meth:`completion_hidden`, each distributed process reading its own rows."""
        longest = int(completions.lengths_B.max())

        def some(rows: range) -> dict[str, Tensor]:
            hidden = self.completion_hidden(completions.select(rows))
            return {"": nn.functional.pad(hidden, (0, 0, 0, longest - hidden.shape[1]))}

        return distributed.map_sharded(len(completions), some)[""]

    def _read_together(self, completions: Completions, rows: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
        """Hidden states of some rows, prompt and completion read in one pass.

        Args:
            completions: of which to read some.
            rows: which.
            size: columns for the prompt and for the completion; None for as many as the longest has.
        """
        part = completions.select(rows)
        if size is None:
            size = int(part.prompts.mask_BP.sum(1).max()), int(part.lengths_B.max())
        prompt_width, length = size
        start = part.prompts.mask_BP.shape[1] - prompt_width
        end = start + prompt_width + length - 1
        tokens, mask = part.sequence_tokens_BS.to(self.device), part.sequence_mask_BS.to(self.device)
        margins = (-start, end - tokens.shape[1])  # a negative one cuts
        tokens, mask = (
            nn.functional.pad(tokens, margins, value=self.pad_id),
            nn.functional.pad(mask, margins, value=False),
        )
        features = part.features_BSD
        if features is not None:  # they lack the last column, which predicts nothing
            features = nn.functional.pad(features.to(self.device), (0, 0, -start, end - features.shape[1]))
        return self.hidden(tokens, mask, features)[:, prompt_width - 1 :]

    # ---------------------------------------------------------------- shared prompts and the cache

    def distinct_prompts(self, tokens_BP: Tensor, mask_BP: Tensor) -> DistinctPrompts | None:
        """The prompts to read once each; None where that does not pay or this family does not allow it."""
        if not self.shares_prompts:
            return None
        return DistinctPrompts.of(tokens_BP, mask_BP, tokens_worth_a_pass(self.width, self.device))

    def reader_after(self, shared: DistinctPrompts, prompts: PromptBatch) -> Callable[[Completions, Tensor], Tensor]:
        """Read the distinct prompts of a batch now; the function returned reads some rows' completions after them."""
        prompts = prompts.select(shared.rows_U)
        start = prompts.mask_BP.shape[1] - int(prompts.mask_BP.sum(1).max())
        tokens_UP, mask_UP = (x[:, start:].to(self.device) for x in (prompts.tokens_BP, prompts.mask_BP))
        last_UD, cache = self.read_prompts(tokens_UP, mask_UP)

        def read(completions: Completions, rows: Tensor) -> Tensor:
            part, which = completions.select(rows), shared.prompt_B.to(self.device)[rows.to(self.device)]
            first_B1D = select_rows(last_UD, which)[:, None]
            columns = int(part.lengths_B.max()) - 1
            if columns <= 0:
                return first_B1D[:, : columns + 1]
            # Two columns at least: the audit of generated tokens takes one token after a cached text for sampling.
            width = max(columns, 2)
            tokens, real = (
                nn.functional.pad(x[:, :columns].to(self.device), (0, width - columns), value=value)
                for x, value in ((part.tokens_BT, self.pad_id), (part.mask_BT, False))
            )
            mask = torch.cat([mask_UP[which], real], 1)
            rest = self._extend(tokens, mask.long(), positions(mask)[:, -width:], _cache_rows(cache, which))
            return torch.cat([first_B1D, rest[:, :columns]], 1)

        return read

    def prefill(self, tokens_BP: Tensor, mask_BP: Tensor) -> tuple[Tensor, Any]:
        """Read the prompts; returns the hidden state of each row's last token (B, D) and the key-value cache."""
        shared = self.distinct_prompts(tokens_BP, mask_BP)
        if shared is None:
            return self.read_prompts(tokens_BP, mask_BP)
        last_UD, cache = self.read_prompts(tokens_BP[shared.rows_U], mask_BP[shared.rows_U])
        return select_rows(last_UD, shared.prompt_B), _cache_rows(cache, shared.prompt_B)

    def read_prompts(self, tokens_BP: Tensor, mask_BP: Tensor) -> tuple[Tensor, Any]:
        """As :meth:`prefill`, without sharing prompts."""
        cache = DynamicCache(config=self.module.config)
        hidden = self._extend(tokens_BP, mask_BP.long(), positions(mask_BP), cache)
        return hidden[:, -1], cache

    def decode_step(self, token_B: Tensor, mask_BS: Tensor | None, position_B: Tensor, cache: Any) -> Tensor:
        """Read one more token per row (``mask_BS`` covers it); extends the cache, returns the hidden states (B, D).

        None as the mask means that every token is real, which saves the model making one.
        """
        return self._extend(token_B[:, None], mask_BS, position_B[:, None], cache)[:, -1]

    def _extend(self, tokens_BS: Tensor, mask_BS: Tensor | None, positions_BS: Tensor, cache: Any) -> Tensor:
        """Read tokens after those in the cache, and add them to it; hidden states (B, S, D)."""
        hidden: Tensor = self.trunk(
            tokens_BS,
            attention_mask=mask_BS,
            use_cache=True,
            **{self.cache_argument: cache},
            **self._position_inputs(positions_BS),
        ).last_hidden_state
        return hidden

    # ---------------------------------------------------------------- the head

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states (.., D) to float32 logits (.., V); forbidden tokens get :data:`LOWEST_LOGIT`."""
        config = self.module.config
        logits: Tensor = self.module.get_output_embeddings()(hidden).float()
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        if scale != 1:
            logits = logits * scale
        cap = getattr(config, "final_logit_softcapping", None)
        if cap:
            logits = torch.tanh(logits / cap) * cap
        # In place: the logits are the largest tensor there is, and nothing before needs them as they were.
        return logits.index_fill_(-1, self._forbidden, LOWEST_LOGIT) if len(self._forbidden) else logits

    @property
    def plain_head(self) -> LinearHead | None:
        """The head where it is one float32 matrix and nothing else, as in most families."""
        layer, config = self.module.get_output_embeddings(), self.module.config
        twists = [getattr(config, name, None) for name in ("logit_scale", "logits_scaling", "final_logit_softcapping")]
        if type(layer) is not nn.Linear or layer.bias is not None or layer.weight.dtype != torch.float32:
            return None
        return LinearHead(layer.weight, self._forbidden, LOWEST_LOGIT) if all(t in (None, 1) for t in twists) else None

    @property
    def head_is_frozen(self) -> bool:
        """Whether no weight of the head trains."""
        return not any(p.requires_grad for p in self.module.get_output_embeddings().parameters())

    @cached_property
    def _forbidden(self) -> Tensor:
        return (~self.allowed_V).nonzero()[:, 0]

    # ---------------------------------------------------------------- what this family's forward pass takes

    def masked_inputs(self, mask_BS: Tensor) -> dict[str, Tensor]:
        """Arguments of the trunk's forward pass over left-padded rows: the attention mask and, where taken, positions."""
        return {"attention_mask": mask_BS.long(), **self._position_inputs(positions(mask_BS))}

    def _position_inputs(self, position_ids: Tensor) -> dict[str, Tensor]:
        return {"position_ids": position_ids} if self._takes_positions else {}

    @cached_property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self.trunk.forward).parameters


def positions(mask_BS: Tensor) -> Tensor:
    """Position of each real token, counted from the row's first one; 0 on left padding, shape (B, S)."""
    return (mask_BS.long().cumsum(1) - 1).clamp_min(0)


def _cache_rows(cache: Any, rows: Tensor) -> Any:
    """A separate cache of some rows, each as often as given; the original stays unchanged."""
    part = copy.copy(cache)
    part.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in part.layers:
        if type(layer).batch_select_indices is DynamicLayer.batch_select_indices and layer.get_seq_length() > 0:
            layer.keys, layer.values = select_rows(layer.keys, rows), select_rows(layer.values, rows)
        else:
            layer.batch_select_indices(rows)
    return part
