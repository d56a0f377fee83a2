"""A Hugging Face causal language model, with the things people get wrong done once.

Pad and end-of-sequence ids, left padding and position ids, chat templates, tokens that must never be sampled, the
context's end, and log-probabilities that do not fill the memory.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bakeoff import distributed
from bakeoff.envs.language_model import logprobs, probes
from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.forward import ForwardPasses
from bakeoff.envs.language_model.gradient_checkpointing import GradientCheckpoints
from bakeoff.envs.language_model.loading import load_pretrained
from bakeoff.envs.language_model.sampling import sample
from bakeoff.envs.language_model.split_trunk import find_blocks
from bakeoff.envs.language_model.tokenizer import Text, end_ids
from bakeoff.errors import ModelError


class LanguageModel(Text, ForwardPasses):
    """A causal language model and its tokenizer.

    The module always stays in eval mode: dropout would make the log-probabilities of an update differ from those of the
    rollout, and the probability ratio would be wrong.
    """

    def __init__(self, module: Any, tokenizer: Any, *, name: str, chat: bool = False) -> None:
        """Wrap a loaded model.

        Args:
            module: a transformers ``...ForCausalLM``.
            tokenizer: its tokenizer.
            name: its name in messages and reports.
            chat: wrap each prompt in the tokenizer's chat template as a user's turn.

        Raises:
            ModelError: no end-of-sequence token, no chat template where ``chat`` needs one, a tokenizer with more tokens
                than the model, an encoder-decoder, a family without a key-value cache or that reads a padded batch in
                another way than its rows alone, weights that are not finite, or a head that is not a function of the last hidden
                state alone.
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
        self.cache_argument = probes.find_cache_argument(self)
        probes.check_reading(self)
        probes.check_head(self, self.eos_ids[0])
        self.shares_prompts = probes.continues_prompts(self)

    @classmethod
    def load(
        cls, source: str | Path, *, device: str = "cpu", dtype: str = "float32", chat: bool = False
    ) -> LanguageModel:
        """Load by hub id, folder, GGUF file or ``package:NAME``; see :mod:`bakeoff.envs.language_model.loading`."""
        module, tokenizer = load_pretrained(source, device=device, dtype=dtype)
        return cls(module, tokenizer, name=str(source), chat=chat)

    # ---------------------------------------------------------------- log-probabilities and sampling

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
            frozen_head=self.head_is_frozen,
        )
        return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, logprobs_N)

    def token_outputs(
        self, completions: Completions, *, entropy_gradient: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (B, T) and entropies in nats (B, T), 0 where the mask is False, and the hidden states (B, T', D).

        Args:
            completions: the tokens to score.
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
            frozen_head=self.head_is_frozen,
        )
        zeros = torch.zeros(mask.shape, device=self.device)
        return zeros.masked_scatter(mask, logprobs_N), zeros.masked_scatter(mask, entropy_N), hidden

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

        Where the trunk is split, the completions keep the activations at the cut.

        Args:
            prompts: B prompts.
            max_new_tokens: T, the length limit.
            generator: a CPU generator; B x T uniforms are drawn from it for any lengths.
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
        shared = self.distinct_prompts(prompts.tokens_BP, prompts.mask_BP)
        if shared is not None:
            kept[0] = kept[0][shared.prompt_B.to(self.device)]
        features = torch.cat(kept, 1)
        missing = completions.sequence_tokens_BS.shape[1] - 1 - features.shape[1]  # all rows ended early
        return dataclasses.replace(completions, features_BSD=torch.nn.functional.pad(features, (0, 0, 0, missing)))

    # ---------------------------------------------------------------- the module

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
        clone = copy.copy(self)
        clone.module = copy.deepcopy(self.module, memo=shared)
        clone.split = None if self.split is None else probes.split_trunk(clone, self.split.top_layers)
        if self._checkpoints is not None:
            clone.checkpoint_gradients()
        return clone

    def split_below(self, top_layers: int) -> LanguageModel:
        """This model, its weights the same tensors, with a trunk that can start from kept activations.

        Raises:
            ModelError: too few blocks, or a family whose blocks cannot be run in two parts (compared with the whole model here).
        """
        model = self.clone_sharing(lambda name: False)
        model.split = probes.split_trunk(model, top_layers)
        return model

    def checkpoint_gradients(self) -> None:
        """From now on keep only each block's input for the backward pass and recompute the rest.

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
        allowed[len(self.tokenizer) :] = False  # rows that pad the embedding to a convenient size
        if self.pad_id not in self.eos_ids:
            allowed[self.pad_id] = False
        return allowed.to(self.device)
