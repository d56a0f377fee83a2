"""The constants of all episodes: vocabulary, prompts, length limit and reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from bakeoff.envs.meter import Meter
from bakeoff.envs.rewards.call import AnyReward, call_reward, reward_name
from bakeoff.errors import ActionError, PromptError, UserError

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel

OWN_PROMPT = -1
"""The prompt index of a text that the caller gave and that is none of the environment's prompts."""


@dataclass(frozen=True)
class Prompt:
    """The prompt of one episode."""

    index: int
    """Its place among the environment's prompts, or :data:`OWN_PROMPT`."""
    text: str
    """The text before tokenization."""
    ids: npt.NDArray[np.int64]
    """Its tokens, unpadded."""


class EpisodeConfig:
    """The part of an environment that no episode changes, besides the meter's totals."""

    def __init__(
        self,
        language_model: LanguageModel,
        prompts: Sequence[str],
        reward: AnyReward,
        *,
        max_new_tokens: int,
        columns: Mapping[str, Sequence[Any]] | None = None,
        name: str | None = None,
        token_mask: npt.ArrayLike | None = None,
        max_prompt_tokens: int | None = None,
        meter: Meter | None = None,
        counts_queries: bool = True,
    ) -> None:
        """Tokenize the prompts and check everything; the arguments are those of the environments.

        Raises:
            PromptError: no prompts, or one that is too long for the model or for ``max_prompt_tokens``.
            UserError: a length limit below 1, a column of the wrong length, a token mask of the wrong shape.
        """
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens!r}, expected a whole number from 1")
        if isinstance(prompts, str) or not prompts:
            raise PromptError("an environment needs a list of at least one prompt")
        self.language_model, self.reward, self.max_new_tokens = language_model, reward, max_new_tokens
        self.reward_name = name or reward_name(reward)
        self.last_parts: Mapping[str, npt.NDArray[np.float64]] = {}
        """By name, what each part of the reward gave in the last call of :meth:`judge`; empty where it has no parts."""
        self.meter = meter if meter is not None else Meter()
        self.counts_queries = counts_queries
        self.columns = dict(columns or {})
        for column, values in self.columns.items():
            if len(values) != len(prompts):
                raise UserError(f'column "{column}" has {len(values)} values for {len(prompts)} prompts')
        self.allowed_V = _allowed(language_model, token_mask)
        self.ends_V = np.zeros(language_model.vocab_size, dtype=bool)
        self.ends_V[list(language_model.eos_ids)] = True
        self._set_prompts(list(prompts), max_prompt_tokens)

    def _set_prompts(self, texts: list[str], max_prompt_tokens: int | None) -> None:
        encoded = self.language_model.encode(texts)
        self.language_model.check_prompt_length(encoded, texts, self.max_new_tokens)
        longest = max(map(len, encoded))
        self.prompt_length = longest if max_prompt_tokens is None else max_prompt_tokens
        if longest > self.prompt_length:
            row = next(row for row, ids in enumerate(encoded) if len(ids) > self.prompt_length)
            raise PromptError(
                f"prompt {texts[row][:40]!r} has {len(encoded[row])} tokens, max_prompt_tokens is {max_prompt_tokens}; "
                "raise it or shorten the prompt"
            )
        pairs = zip(texts, encoded, strict=True)
        self.prompts = [Prompt(index, text, np.array(ids, np.int64)) for index, (text, ids) in enumerate(pairs)]
        self._by_text = {prompt.text: prompt for prompt in reversed(self.prompts)}

    def prompt_of_text(self, text: str) -> Prompt:
        """The prompt of that text: one of the environment's own, or a new one that fits the observation."""
        if not isinstance(text, str):
            raise PromptError(f"prompt {text!r} is not a text")
        known = self._by_text.get(text)
        if known is not None:
            return known
        ids = self.language_model.encode([text])[0]
        self.language_model.check_prompt_length([ids], [text], self.max_new_tokens)
        if len(ids) > self.prompt_length:
            raise PromptError(
                f"prompt {text[:40]!r} has {len(ids)} tokens, the observation holds {self.prompt_length}; "
                "make the environment with a larger max_prompt_tokens"
            )
        return Prompt(OWN_PROMPT, text, np.array(ids, np.int64))

    def check_tokens(self, tokens: npt.NDArray[Any], where: str) -> None:
        """Refuse tokens outside the vocabulary and forbidden ones.

        Raises:
            ActionError: a token outside the vocabulary or a forbidden one; names the first.
        """
        if tokens.size == 0:
            return
        size = len(self.allowed_V)
        if tokens.min() < 0 or tokens.max() >= size:
            bad = np.argwhere((tokens < 0) | (tokens >= size))[0]
            raise ActionError(
                f"token {tokens[tuple(bad)]} ({where} {bad[0]}) is outside the vocabulary; expected 0 to {size - 1}"
            )
        allowed = self.allowed_V[tokens]
        if not allowed.all():
            bad = np.argwhere(~allowed)[0]
            token = int(tokens[tuple(bad)])
            kind = "the padding token" if token == self.language_model.pad_id else "a forbidden token"
            raise ActionError(
                f"token {token} ({where} {bad[0]}) is {kind}; choose among the tokens that action_masks() allows"
            )

    def texts(self, tokens_BT: npt.NDArray[np.int64], mask_BT: npt.NDArray[np.bool_]) -> list[str]:
        """Completions as text."""
        return self.language_model.decode(torch.from_numpy(tokens_BT), torch.from_numpy(mask_BT))

    def judge(
        self, prompts: Sequence[Prompt], tokens_BT: npt.NDArray[np.int64], mask_BT: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float64], list[str]]:
        """Score finished completions in one call of the reward, and count them.

        Returns:
            The rewards (B,) and the completions' texts.
        """
        texts = self.texts(tokens_BT, mask_BT)
        columns: dict[str, list[Any]] = {
            "completion_ids": [tokens[mask].tolist() for tokens, mask in zip(tokens_BT, mask_BT, strict=True)],
            "prompt_index": [prompt.index for prompt in prompts],
        }
        for name, values in self.columns.items():
            columns[name] = [None if p.index == OWN_PROMPT else values[p.index] for p in prompts]
        found = call_reward(self.reward, self.reward_name, [p.text for p in prompts], texts, columns)
        self.last_parts = found.parts
        if self.counts_queries:
            self.meter.add_queries(len(prompts))
        return found.values, texts


def _allowed(language_model: LanguageModel, token_mask: npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    allowed: npt.NDArray[np.bool_] = language_model.allowed_V.cpu().numpy().astype(bool)
    if token_mask is None:
        return allowed
    mask = np.asarray(token_mask)
    if mask.shape != allowed.shape or mask.dtype != np.bool_:
        raise UserError(
            f"token_mask has shape {mask.shape} and dtype {mask.dtype}, "
            f"expected {allowed.shape} and bool (True: may be played)"
        )
    if not (allowed & mask).any():
        raise UserError("token_mask forbids every token; leave at least one")
    both: npt.NDArray[np.bool_] = allowed & mask
    return both
