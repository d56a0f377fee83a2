"""A Hugging Face causal language model, with the things people get wrong done once.

Pad and end-of-sequence ids, left padding and position ids, chat templates, tokens that must never be sampled, the
context's end, and log-probabilities that do not fill the memory.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from bakeoff import distributed
from bakeoff.envs.language_model import logprobs
from bakeoff.envs.language_model.batching import DistinctPrompts, length_parts, tokens_worth_a_pass
from bakeoff.envs.language_model.cache_names import CACHE_NAMES, cache_argument
from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.gradient_checkpointing import GradientCheckpoints
from bakeoff.envs.language_model.linear_logprobs import LinearHead
from bakeoff.envs.language_model.loading import load_pretrained
from bakeoff.envs.language_model.sampling import sample
from bakeoff.envs.language_model.split_trunk import SplitTrunk, find_blocks
from bakeoff.envs.language_model.tokenizer import Text, end_ids
from bakeoff.errors import ModelError

LOWEST_LOGIT = -1e9
"""Logit of a forbidden token: its probability is exactly 0, and differences of such logits stay finite."""


class LanguageModel(Text):
    """A causal language model and its tokenizer.

    The module stays in eval mode always: dropout would make the log-probabilities of an update differ from those of the
    rollout, and the probability ratio would lie.
    """

    def __init__(self, module: Any, tokenizer: Any, *, name: str, chat: bool = False) -> None:
        """Wrap a loaded model.

        Args:
            module: a transformers ``...ForCausalLM``.
            tokenizer: its tokenizer.
            name: how messages and reports call it.
            chat: wrap each prompt in the tokenizer's chat template as a user's turn.

        Raises:
            ModelError: no end-of-sequence token, no chat template where one is asked for, a tokenizer with more tokens
                than the model, an encoder-decoder, a family without a key-value cache, or a head that is not a function of the
                last hidden state alone.
        """
        self.module, self.tokenizer, self.name, self.chat = module.eval(), tokenizer, name, chat
        if getattr(module.config, "is_encoder_decoder", False):
            raise ModelError(f'model "{name}" is an encoder-decoder; use a causal (decoder-only) model')
        if chat and not getattr(tokenizer, "chat_template", None):
            raise ModelError(f'model "{name}" has no chat template; leave out chat: true, or use its instruct version')
        self.vocab_size: int = int(module.get_output_embeddings().weight.shape[0])
        if len(tokenizer) > self.vocab_size:
            raise ModelError(
                f'the tokenizer of "{name}" knows {len(tokenizer)} tokens, the model {self.vocab_size}; they do not belong together'
            )
        self.eos_ids: tuple[int, ...] = end_ids(module, tokenizer, name)
        own_pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_ids[0] if own_pad is None else int(own_pad)
        self.bos_id: int | None = tokenizer.bos_token_id
        self.width: int = int(module.get_output_embeddings().weight.shape[1])
        self.max_context: int = int(getattr(module.config, "max_position_embeddings", None) or 2**31)
        self.allowed_V = self._allowed()
        self.split: SplitTrunk | None = None
        self._checkpoints: GradientCheckpoints | None = None
        self._cache_argument = self._find_cache_argument()
        self._check_head()
        self._shares_prompts = self._continues_prompts()

    @classmethod
    def load(
        cls, source: str | Path, *, device: str = "cpu", dtype: str = "float32", chat: bool = False
    ) -> LanguageModel:
        """Load by hub id, folder, GGUF file or ``package:NAME``; see :mod:`bakeoff.envs.language_model.loading`."""
        module, tokenizer = load_pretrained(source, device=device, dtype=dtype)
        return cls(module, tokenizer, name=str(source), chat=chat)

    # ---------------------------------------------------------------- forward passes

    def hidden(self, tokens_BS: Tensor, mask_BS: Tensor, features_BSD: Tensor | None = None) -> Tensor:
        """Final hidden states, what the head reads, shape (B, S, D); differentiable unless gradients are off.

        Args:
            tokens_BS: token ids.
            mask_BS: the real tokens.
            features_BSD: activations at the cut, where the trunk is split: only the blocks above it run then.
        """
        inputs = {"attention_mask": mask_BS.long(), **self._positions(positions(mask_BS))}
        with nullcontext() if self._checkpoints is None else self._checkpoints.active():
            if self.split is not None and features_BSD is not None:
                return self.split.hidden(features_BSD, tokens_BS, **inputs)
            hidden: Tensor = self.trunk(tokens_BS, use_cache=False, **inputs).last_hidden_state
        return hidden

    def completion_hidden(self, completions: Completions) -> Tensor:
        """The hidden states that predict each completion token, shape (B, T', D), T' the longest real completion.

        A prompt that several rows have is read once where that pays, rows of like length go together, and columns that are padding
        in all of these are cut. What stands where a row has no token means nothing.
        """
        if not torch.is_grad_enabled() and distributed.should_shard(len(completions)):
            return self._completion_hidden_of_all(completions)
        prompts, device = completions.prompts, self.device
        lengths_B = completions.lengths_B
        longest = int(lengths_B.max())
        shared: DistinctPrompts | None = None
        read: Callable[[Completions, Tensor], Tensor] = self._read_together
        if completions.features_BSD is None and (self._checkpoints is None or not torch.is_grad_enabled()):
            shared = self._distinct(prompts.tokens_BP, prompts.mask_BP)
        totals_B = lengths_B + prompts.mask_BP.sum(1)
        if shared is not None:
            read, totals_B = self._reader_after(shared, prompts), lengths_B
        parts = length_parts(totals_B.tolist(), tokens_worth_a_pass(self.width, self.device))
        if len(parts) == 1:
            return read(completions, torch.arange(len(completions)))
        rows_B = torch.tensor([row for part in parts for row in part])
        hidden = [read(completions, rows) for rows in torch.split(rows_B, [len(part) for part in parts])]
        padded = [nn.functional.pad(one, (0, 0, 0, longest - one.shape[1])) for one in hidden]
        return torch.cat(padded)[rows_B.argsort().to(device)]

    def _completion_hidden_of_all(self, completions: Completions) -> Tensor:
        """The same, each process of a team reading its own rows."""
        longest = int(completions.lengths_B.max())

        def some(rows: range) -> dict[str, Tensor]:
            hidden = self.completion_hidden(completions.select(rows))
            return {"": nn.functional.pad(hidden, (0, 0, 0, longest - hidden.shape[1]))}

        return distributed.map_sharded(len(completions), some)[""]

    def _read_together(self, completions: Completions, rows: Tensor) -> Tensor:
        """Hidden states of some rows, prompt and completion read in one pass."""
        part = completions.select(rows)
        prompt_width = int(part.prompts.mask_BP.sum(1).max())
        start = part.prompts.mask_BP.shape[1] - prompt_width
        end = part.prompts.mask_BP.shape[1] + int(part.lengths_B.max())
        tokens = part.sequence_tokens_BS[:, start : end - 1].to(self.device)
        mask = part.sequence_mask_BS[:, start : end - 1].to(self.device)
        kept = part.features_BSD
        features = None if kept is None else kept[:, start : end - 1].to(self.device)
        return self.hidden(tokens, mask, features)[:, prompt_width - 1 :]

    def _reader_after(self, shared: DistinctPrompts, prompts: PromptBatch) -> Callable[[Completions, Tensor], Tensor]:
        """Reads the distinct prompts of a batch now; what it returns reads some rows' completions after them."""
        prompts = prompts.select(shared.rows_U)
        start = prompts.mask_BP.shape[1] - int(prompts.mask_BP.sum(1).max())
        tokens_UP, mask_UP = (x[:, start:].to(self.device) for x in (prompts.tokens_BP, prompts.mask_BP))
        last_UD, cache = self._read_prompts(tokens_UP, mask_UP)

        def read(completions: Completions, rows: Tensor) -> Tensor:
            part, which = completions.select(rows), shared.prompt_B.to(self.device)[rows.to(self.device)]
            first_B1D = last_UD[which][:, None]
            columns = int(part.lengths_B.max()) - 1
            if columns <= 0:
                return first_B1D[:, : columns + 1]
            # Two columns at least: one token after a cached text is what generating looks like to whoever counts that.
            width = max(columns, 2)
            tokens, real = (
                nn.functional.pad(x[:, :columns].to(self.device), (0, width - columns), value=value)
                for x, value in ((part.tokens_BT, self.pad_id), (part.mask_BT, False))
            )
            mask = torch.cat([mask_UP[which], real], 1)
            rest: Tensor = self.trunk(
                tokens,
                attention_mask=mask.long(),
                **self._cached(_rows_of(cache, which)),
                **self._positions(positions(mask)[:, -width:]),
            ).last_hidden_state
            return torch.cat([first_B1D, rest[:, :columns]], 1)

        return read

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

    def token_logprobs(self, completions: Completions) -> Tensor:
        """Log-probability of each completion token, shape (B, T), 0 where the mask is False."""
        if not torch.is_grad_enabled() and distributed.should_shard(len(completions)):
            read = self.token_logprobs
            return distributed.map_sharded(len(completions), lambda rows: {"": read(completions.select(rows))})[""]
        hidden = self.completion_hidden(completions)
        mask = completions.mask_BT.to(self.device)
        logprobs_N = logprobs.chosen_logprobs(
            self.plain_head or self.head,
            hidden[mask[:, : hidden.shape[1]]],
            completions.tokens_BT.to(self.device)[mask],
            self.vocab_size,
            frozen_head=self._head_is_frozen,
        )
        return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, logprobs_N)

    def token_outputs(
        self, completions: Completions, *, entropy_gradient: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (B, T) and entropies in nats (B, T), 0 where the mask is False, and the hidden states (B, T', D).

        Args:
            completions: whose tokens are asked for.
            entropy_gradient: whether the entropies are differentiable; the update is cheaper where they need not be.
        """
        hidden = self.completion_hidden(completions)
        mask = completions.mask_BT.to(self.device)
        used = mask[:, : hidden.shape[1]]
        tokens_N = completions.tokens_BT.to(self.device)[mask]
        logprobs_N, entropy_N = logprobs.logprobs_and_entropy(
            self.plain_head or self.head,
            hidden[used],
            tokens_N,
            self.vocab_size,
            entropy_gradient=entropy_gradient,
            frozen_head=self._head_is_frozen,
        )
        zeros = torch.zeros(mask.shape, device=self.device)
        return zeros.masked_scatter(mask, logprobs_N), zeros.masked_scatter(mask, entropy_N), hidden

    def prefill(self, tokens_BP: Tensor, mask_BP: Tensor) -> tuple[Tensor, Any]:
        """Read the prompts; returns the hidden state of each row's last token (B, D) and the key-value cache."""
        shared = self._distinct(tokens_BP, mask_BP)
        if shared is None:
            return self._read_prompts(tokens_BP, mask_BP)
        last_UD, cache = self._read_prompts(tokens_BP[shared.rows_U], mask_BP[shared.rows_U])
        return last_UD[shared.prompt_B], _rows_of(cache, shared.prompt_B)

    def _read_prompts(self, tokens_BP: Tensor, mask_BP: Tensor) -> tuple[Tensor, Any]:
        cache = DynamicCache(config=self.module.config)
        output = self.trunk(
            tokens_BP,
            attention_mask=mask_BP.long(),
            **self._cached(cache),
            **self._positions(positions(mask_BP)),
        )
        return output.last_hidden_state[:, -1], cache

    def _distinct(self, tokens_BP: Tensor, mask_BP: Tensor) -> DistinctPrompts | None:
        """The prompts that are read once each, where that pays and this family allows it."""
        if not self._shares_prompts:
            return None
        return DistinctPrompts.of(tokens_BP, mask_BP, tokens_worth_a_pass(self.width, self.device))

    def decode_step(self, token_B: Tensor, mask_BS: Tensor | None, position_B: Tensor, cache: Any) -> Tensor:
        """Read one more token a row (``mask_BS`` covers it); extends the cache, returns the hidden states (B, D).

        Without a mask all is real, which saves the model the making of one.
        """
        output = self.trunk(
            token_B[:, None],
            attention_mask=mask_BS,
            **self._cached(cache),
            **self._positions(position_B[:, None]),
        )
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def sample(
        self,
        prompts: PromptBatch,
        max_new_tokens: int,
        generator: torch.Generator,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Completions:
        """One completion for each prompt (see :func:`bakeoff.envs.language_model.sampling.sample`).

        Where the trunk is split, what crosses the cut on the way is kept in the completions.

        Args:
            prompts: B prompts.
            max_new_tokens: T, the length limit.
            generator: a CPU generator; B x T uniforms are drawn from it whatever the lengths turn out to be.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: keep the k likeliest tokens; 0 keeps all.
            top_p: keep the smallest set of likeliest tokens with at least this mass.
        """
        uniforms_BT = torch.rand(len(prompts), max_new_tokens, generator=generator)
        run = partial(self._sample, temperature=temperature, top_k=top_k, top_p=top_p)
        if not distributed.should_shard(len(prompts)):
            return run(prompts, uniforms_BT)

        def some(rows: range) -> dict[str, Tensor]:
            found = run(prompts.select(rows), uniforms_BT[list(rows)])
            values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
            return {name: value for name, value in values.items() if isinstance(value, Tensor)}

        return Completions(prompts.to(self.device), **distributed.map_sharded(len(prompts), some))

    def _sample(self, prompts: PromptBatch, uniforms_BT: Tensor, **settings: Any) -> Completions:
        run = partial(sample, self, prompts, uniforms_BT, **settings)
        if self.split is None:
            return run()
        with self.split.recording() as kept:
            completions = run()
        shared = self._distinct(prompts.tokens_BP, prompts.mask_BP)
        if shared is not None:
            kept[0] = kept[0][shared.prompt_B.to(self.device)]
        features = torch.cat(kept, 1)
        missing = completions.sequence_tokens_BS.shape[1] - 1 - features.shape[1]  # all rows ended early
        return dataclasses.replace(completions, features_BSD=torch.nn.functional.pad(features, (0, 0, 0, missing)))

    # ---------------------------------------------------------------- the module

    @property
    def trunk(self) -> Any:
        """The module without its head."""
        return self.module.base_model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.module.device
        return device

    @property
    def num_parameters(self) -> int:
        """Weights, tied ones counted once."""
        return sum(p.numel() for p in self.module.parameters())

    def copy(self) -> LanguageModel:
        """A model of its own with equal weights; the tokenizer is shared."""
        return self.clone_sharing(lambda name: True)

    def clone_sharing(self, own: Callable[[str], bool]) -> LanguageModel:
        """A second model that shares weights with this one: tensors whose name satisfies ``own`` are copied, the rest are the same.

        Adding to its module (adapters, say) leaves this one's module as it is.
        """
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        shared = {id(tensor): tensor for name, tensor in named if not own(name)}
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module, memo=shared)
        twin.split = None if self.split is None else twin._cut(self.split.top_layers)
        if self._checkpoints is not None:
            twin.checkpoint_gradients()
        return twin

    def split_below(self, top_layers: int) -> LanguageModel:
        """This model, its weights the same tensors, with a trunk that can start from kept activations.

        Raises:
            ModelError: too few blocks, or a family whose blocks cannot be run in two parts (compared with the whole model here).
        """
        model = self.clone_sharing(lambda name: False)
        model.split = model._cut(top_layers)
        return model

    def checkpoint_gradients(self) -> None:
        """From now on keep only each block's input for the backward pass, and compute the rest a second time.

        Raises:
            ModelError: a family that cannot.
        """
        self._checkpoints = GradientCheckpoints(find_blocks(self.trunk, self.name)[1], self.name)

    def freeze(self) -> LanguageModel:
        """Switch gradients off for every weight; returns itself."""
        self.module.requires_grad_(False)
        return self

    def save(self, folder: str | Path) -> None:
        """Save weights and tokenizer so that plain transformers loads them (safetensors)."""
        self.module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _allowed(self) -> Tensor:
        allowed = torch.ones(self.vocab_size, dtype=torch.bool)
        allowed[len(self.tokenizer) :] = False  # rows that only round the embedding up to a friendly size
        if self.pad_id not in self.eos_ids:
            allowed[self.pad_id] = False
        self._forbidden = (~allowed).nonzero()[:, 0].to(self.device)
        return allowed.to(self.device)

    @torch.no_grad()
    def _cut(self, top_layers: int) -> SplitTrunk:
        split = SplitTrunk(self.trunk, top_layers, self.name)
        length = min(8, self.max_context)
        tokens = torch.arange(2 * length, device=self.device).reshape(2, length) % self.vocab_size
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[0, : length // 3] = False  # left padding, as in every batch
        inputs = {"attention_mask": mask.long(), **self._positions(positions(mask))}
        split.check(self.hidden(tokens, mask), tokens, mask, **inputs)
        return split

    @property
    def plain_head(self) -> LinearHead | None:
        """The head where it is one float32 matrix and nothing else, as it mostly is."""
        layer, config = self.module.get_output_embeddings(), self.module.config
        twists = [getattr(config, name, None) for name in ("logit_scale", "logits_scaling", "final_logit_softcapping")]
        if type(layer) is not nn.Linear or layer.bias is not None or layer.weight.dtype != torch.float32:
            return None
        return LinearHead(layer.weight, self._forbidden, LOWEST_LOGIT) if all(t in (None, 1) for t in twists) else None

    @property
    def _head_is_frozen(self) -> bool:
        return not any(p.requires_grad for p in self.module.get_output_embeddings().parameters())

    @cached_property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self.trunk.forward).parameters

    def _positions(self, position_ids: Tensor) -> dict[str, Tensor]:
        return {"position_ids": position_ids} if self._takes_positions else {}

    def _find_cache_argument(self) -> str:
        name = cache_argument(self.trunk.forward)
        if name is None:
            raise ModelError(
                f'the forward pass of "{self.name}" ({type(self.module).__name__}) takes no key-value cache '
                f"({' or '.join(CACHE_NAMES)}); this model family is not supported"
            )
        return name

    def _cached(self, cache: Any) -> dict[str, Any]:
        """Arguments of a forward pass that continues what is in a cache, and adds to it."""
        return {self._cache_argument: cache, "use_cache": True}

    @torch.no_grad()
    def _check_head(self) -> None:
        """Compare head(hidden) with the model's own logits once: a head we do not understand must not pass silently."""
        tokens = torch.tensor([[self.eos_ids[0], 0, min(1, self.vocab_size - 1)]], device=self.device)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        ours = self.head(self.hidden(tokens, mask))
        theirs = self.module(tokens, attention_mask=mask.long()).logits.float()
        allowed = self.allowed_V
        if not torch.allclose(ours[..., allowed], theirs[..., allowed], atol=1e-2, rtol=1e-2):
            raise ModelError(
                f'the logits of "{self.name}" ({type(self.module).__name__}) are not a function of its last hidden state '
                "that we know; this model family is not supported"
            )

    @torch.no_grad()
    def _continues_prompts(self) -> bool:
        """Whether completions can be read after prompts that are in the cache, with this family: compared here, not assumed."""
        length = min(8, self.max_context)
        tokens = torch.arange(2 * length, device=self.device).reshape(2, length) % self.vocab_size
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[0, : length // 3] = False  # left padding, as in every batch
        whole, prompt = self.hidden(tokens, mask), length // 2
        prompts = PromptBatch(tokens[:, :prompt], mask[:, :prompt], torch.arange(2))
        completions = Completions(prompts, tokens[:, prompt:], mask[:, prompt:])
        try:
            _, cache = self._read_prompts(prompts.tokens_BP, prompts.mask_BP)
            if not all(type(layer) is DynamicLayer for layer in cache.layers):
                return False  # a window that slides, or a state that has no rows of its own
            one_each = DistinctPrompts(torch.arange(2), torch.arange(2))
            parts = self._reader_after(one_each, prompts)(completions, torch.arange(2))
        except Exception:  # whatever an unforeseen family's code may raise
            return False
        wanted = whole[:, prompt - 1 : length - 1]
        difference = float((parts - wanted).abs().max() / wanted.abs().max())
        return bool(difference <= torch.finfo(whole.dtype).eps ** 0.5)


def positions(mask_BS: Tensor) -> Tensor:
    """Position of each real token, counted from the row's first one; 0 on left padding, shape (B, S)."""
    return (mask_BS.long().cumsum(1) - 1).clamp_min(0)


def _rows_of(cache: Any, rows: Tensor) -> Any:
    """A cache of its own of some rows, any of them several times; the given one stays as it is."""
    part = copy.copy(cache)
    part.layers = [copy.copy(layer) for layer in cache.layers]
    part.batch_select_indices(rows)
    return part
