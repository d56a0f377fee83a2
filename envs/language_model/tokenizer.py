"""From text to token ids and back: the half of a language model that is its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import PromptBatch
from bakeoff.errors import ModelError, PromptError


class Text:
    """The half of a language model that is its tokenizer."""

    tokenizer: Any
    """A transformers tokenizer."""
    name: str
    """The model's name in messages."""
    chat: bool
    """Prompts are wrapped in the chat template."""
    eos_ids: tuple[int, ...]
    """Tokens that end a completion."""
    pad_id: int
    """The token that fills a batch."""
    bos_id: int | None
    """The token that starts a text, where the tokenizer has one."""
    max_context: int
    """Longest prompt and completion together."""

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt, with the chat template or the tokenizer's own start token, unpadded.

        Raises:
            PromptError: a prompt that encodes to no token at all, or that the tokenizer cannot spell.
        """
        encoded = []
        for prompt in prompts:
            try:
                ids = self._chat_ids(prompt) if self.chat else self._open_ids(prompt)
            except Exception as error:  # tokenizers raise plain Exception on a word they cannot spell
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise PromptError(
                    f'the tokenizer of "{self.name}" cannot encode prompt {prompt[:80]!r}: {reason}'
                ) from error
            if not ids and self.bos_id is not None:
                ids = [self.bos_id]
            if not ids:
                raise PromptError(f"prompt {prompt!r} encodes to no token; give it some text")
            encoded.append([int(i) for i in ids])
        return encoded

    def _chat_ids(self, prompt: str) -> list[int]:
        turn = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _open_ids(self, prompt: str) -> list[int]:
        """Without an end token: some tokenizers close every text, and a prompt has to stay open for its completion."""
        ids = list(self.tokenizer(prompt)["input_ids"])
        while len(ids) > 1 and ids[-1] in self.eos_ids:
            ids.pop()
        return ids

    def pad(
        self, encoded: Sequence[Sequence[int]], indices: Sequence[int] | None = None, length: int | None = None
    ) -> PromptBatch:
        """A left-padded batch, as long as its longest row or ``length``; ``indices`` say which prompt each row is."""
        longest = max(len(ids) for ids in encoded) if length is None else length
        tokens = torch.full((len(encoded), longest), self.pad_id)
        mask = torch.zeros(len(encoded), longest, dtype=torch.bool)
        for row, ids in enumerate(encoded):
            tokens[row, longest - len(ids) :] = torch.tensor(list(ids))
            mask[row, longest - len(ids) :] = True
        order = torch.arange(len(encoded)) if indices is None else torch.as_tensor(list(indices))
        return PromptBatch(tokens, mask, order)

    def decode(self, tokens_BT: Tensor, mask_BT: Tensor) -> list[str]:
        """The text that each row's real tokens add, leading space included; special tokens are left out.

        Many tokenizers drop a space at the start of what they decode. Prompt and completion would then run together, so
        each row is decoded behind a known word, which is cut off again.
        """
        word_ids, word = self._lead
        rows = [word_ids + t[m].tolist() for t, m in zip(tokens_BT.cpu(), mask_BT.cpu(), strict=True)]
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.removeprefix(word) for text in texts]

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each token adds, one string per token; joined they equal :meth:`decode`.

        A token that ends inside a character adds nothing; the one that completes it adds the whole character. Special
        tokens, which the text leaves out, go by their own names.
        """
        word_ids, word = self._lead
        prefixes = [word_ids + list(token_ids[:end]) for end in range(1, len(token_ids) + 1)]
        texts: list[str] = self.tokenizer.batch_decode(prefixes, skip_special_tokens=True)
        special = set(self.tokenizer.all_special_ids)
        pieces, decoded = [], word
        for place, (token, text) in enumerate(zip(token_ids, texts, strict=True)):
            whole = not text.endswith("\ufffd") or place + 1 == len(texts)
            if token in special:
                pieces.append(str(self.tokenizer.convert_ids_to_tokens(int(token))))
            elif whole and text.startswith(decoded):
                pieces.append(text[len(decoded) :])
                decoded = text
            else:
                pieces.append("")
        return pieces

    def check_prompt_length(self, encoded: Sequence[Sequence[int]], texts: Sequence[str], max_new_tokens: int) -> None:
        """Refuse prompts that leave no room for a completion.

        Raises:
            PromptError: names the first prompt that is too long, its length and the limit.
        """
        room = self.max_context - max_new_tokens
        for ids, text in zip(encoded, texts, strict=True):
            if len(ids) > room:
                raise PromptError(
                    f"prompt {text[:40]!r}... has {len(ids)} tokens; with max_new_tokens {max_new_tokens} the context of "
                    f'"{self.name}" ({self.max_context}) leaves {room}; shorten the prompt or lower max_new_tokens'
                )

    @cached_property
    def _lead(self) -> tuple[list[int], str]:
        """Tokens of a word to decode behind, and its text; none where the tokenizer does not give the word back."""
        ids = [int(i) for i in self.tokenizer("a", add_special_tokens=False)["input_ids"]]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return (ids, text) if text.strip() else ([], "")


def end_ids(module: Any, tokenizer: Any, name: str) -> tuple[int, ...]:
    """The tokens that end a completion: the generation config's (a model may have several), else the tokenizer's."""
    declared = getattr(module.generation_config, "eos_token_id", None) if module.generation_config is not None else None
    ids = declared if isinstance(declared, list) else [declared]
    ids = [int(i) for i in ids if i is not None]
    if tokenizer.eos_token_id is not None and int(tokenizer.eos_token_id) not in ids:
        ids.insert(0, int(tokenizer.eos_token_id))
    if not ids:
        raise ModelError(f'model "{name}" has no end-of-sequence token; set eos_token in its tokenizer')
    return tuple(ids)
