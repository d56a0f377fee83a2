"""A Hugging Face sequence classifier with its own tokenizer: texts in, logits out, in batches of like length.

Text goes through the classifier's own tokenizer, so its vocabulary may differ from the policy's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bakeoff.envs.language_model.loading import DTYPES, first_line, locate, quietly
from bakeoff.errors import ModelError

DEFAULT_MAX_LENGTH = 1024
"""Tokens that are read of a text where neither the caller nor the model says less."""

BATCH_TOKENS = 4096
"""Tokens in one forward pass, padding included."""


class SequenceClassifier:
    """A classifier in eval mode."""

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        *,
        name: str,
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Wrap a loaded model.

        Args:
            module: a transformers ``...ForSequenceClassification``.
            tokenizer: its tokenizer.
            name: how messages call it.
            max_length: how many tokens are read of a text; the end is kept, for there stands the answer.
            batch_tokens: tokens in one forward pass, padding included.

        Raises:
            ModelError: a tokenizer with more tokens than the model, or no padding token on either side.
        """
        self.module, self.tokenizer, self.name, self.batch_tokens = module.eval(), tokenizer, name, batch_tokens
        vocabulary = int(module.get_input_embeddings().weight.shape[0])
        if len(tokenizer) > vocabulary:
            raise ModelError(
                f'the tokenizer of "{name}" knows {len(tokenizer)} tokens, the model {vocabulary}; they do not belong together'
            )
        self.pad_id = _pad_id(module, tokenizer, name)
        self.max_length = _max_length(module, tokenizer, max_length)
        tokenizer.truncation_side = "left"

    @classmethod
    def load(
        cls, source: str | Path, *, device: str = "cpu", dtype: str = "float32", max_length: int | None = None
    ) -> SequenceClassifier:
        """Load by folder or hub id.

        Raises:
            ModelError: nothing there, no sequence classifier, or one whose head was never trained.
        """
        if dtype not in DTYPES:
            raise ModelError(f'dtype "{dtype}" is not known; use one of {", ".join(DTYPES)}')
        place, arguments = locate(str(source))
        if arguments:
            raise ModelError(
                f'"{source}" is a GGUF file, which holds a language model and no classifier; give a folder'
            )
        try:
            with quietly(errors_only=True):  # what is missing becomes our own error
                tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
                module, info = AutoModelForSequenceClassification.from_pretrained(
                    place, dtype=DTYPES[dtype], output_loading_info=True, trust_remote_code=False
                )
                module = module.to(device)
        except Exception as error:  # transformers raises OSError, ValueError, KeyError, safetensors' own, ...
            raise ModelError(
                f'model "{source}" cannot be loaded as a sequence classifier: {first_line(error)}'
            ) from error
        missing = sorted(info["missing_keys"])
        if missing:
            raise ModelError(
                f'model "{source}" has no trained head ({missing[0]} is missing): it is a base model; '
                "train one on it with `bakeoff train-reward`"
            )
        return cls(module, tokenizer, name=str(source), max_length=max_length)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.module.device
        return device

    def encode(self, texts: Sequence[str], *, special: bool = True, cut: bool = True) -> list[list[int]]:
        """Token ids of each text, at most ``max_length`` of them, the last ones.

        Args:
            texts: what to encode.
            special: add the tokenizer's own start and end tokens; a chat template has them already.
            cut: False keeps all of them.

        Raises:
            ModelError: a text that the tokenizer cannot spell, or that encodes to nothing.
        """
        if not texts:
            return []
        try:
            encoded: list[list[int]] = self.tokenizer(
                list(texts),
                add_special_tokens=special,
                truncation=cut,
                max_length=self.max_length if cut else None,
                verbose=False,
            )["input_ids"]
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelError(f'the tokenizer of "{self.name}" cannot encode a text: {first_line(error)}') from error
        for text, ids in zip(texts, encoded, strict=True):
            if not ids:
                raise ModelError(f'the tokenizer of "{self.name}" makes no token of {text[:60]!r}')
        return encoded

    @torch.inference_mode()
    def logits(self, encoded: Sequence[Sequence[int]]) -> Tensor:
        """The head's output for each sequence, shape (N, labels), float32 on the CPU, in the order of ``encoded``."""
        results: list[Tensor | None] = [None] * len(encoded)
        for rows in length_sorted_batches([len(ids) for ids in encoded], self.batch_tokens):
            batch_NK = self.forward([encoded[row] for row in rows]).float().cpu()
            for row, logits_K in zip(rows, batch_NK, strict=True):
                results[row] = logits_K
        found = [logits for logits in results if logits is not None]
        return torch.stack(found) if found else torch.empty(0, int(self.module.config.num_labels))

    def forward(self, encoded: Sequence[Sequence[int]]) -> Tensor:
        """One padded batch through the model, shape (N, labels); differentiable unless gradients are off."""
        tokens_NS, mask_NS = self.padded(encoded)
        logits: Tensor = self.module(input_ids=tokens_NS, attention_mask=mask_NS).logits
        return logits

    def padded(self, encoded: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Tokens and mask (1 on real ones) of a batch padded on the right, each (N, S), on the model's device."""
        longest = max(map(len, encoded))
        tokens_NS = torch.full((len(encoded), longest), self.pad_id)
        mask_NS = torch.zeros(len(encoded), longest, dtype=torch.long)
        for row, ids in enumerate(encoded):
            tokens_NS[row, : len(ids)] = torch.tensor(list(ids))
            mask_NS[row, : len(ids)] = 1
        return tokens_NS.to(self.device), mask_NS.to(self.device)


def length_sorted_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows in batches of like length, longest first, so that little is padded; each of at most ``batch_tokens``."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _pad_id(module: Any, tokenizer: Any, name: str) -> int:
    config = module.config.get_text_config()
    own = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.pad_token_id
    if own is None:
        raise ModelError(
            f'reward model "{name}" has no pad token, so texts of unequal length cannot share a batch; '
            "set pad_token in its tokenizer and pad_token_id in its config, as it was trained"
        )
    if config.pad_token_id is None:  # causal classifiers look for the last token that is not padding
        config.pad_token_id = int(own)
    return int(config.pad_token_id)


def _max_length(module: Any, tokenizer: Any, wanted: int | None) -> int:
    if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1):
        raise ModelError(f"max_length is {wanted!r}, expected a whole number from 1")
    positions = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    limits = [wanted or DEFAULT_MAX_LENGTH, int(tokenizer.model_max_length), *([int(positions)] if positions else [])]
    if getattr(module.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        limits[-1] -= 2  # their positions start behind the padding's
    return max(1, min(limits))
