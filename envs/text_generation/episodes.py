"""The bookkeeping of B parallel episodes, shared by the vector and the single environment, and their results.

Stepping writes one token per row into preallocated arrays; nothing here runs a language model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.text_generation.episode_config import OWN_PROMPT, EpisodeConfig, Prompt
from bakeoff.errors import ActionError, EpisodeEndedError
from bakeoff.text import printable

Rows = npt.NDArray[np.intp]
"""Which sub-environments, by number."""
Observation = dict[str, npt.NDArray[Any]]
"""``tokens`` (int64) and ``mask`` (int8, 1 on real tokens), prompt on the left, completion on the right."""


@dataclass(frozen=True)
class FinishedEpisodes:
    """Episodes that have just ended."""

    rows: Rows
    """Their numbers, shape (N,)."""
    rewards_N: npt.NDArray[np.float64]
    """The reward of each completion."""
    infos: list[dict[str, Any]]
    """The last step's ``info`` of each: ``prompt``, ``prompt_index``, ``completion``."""


@dataclass(frozen=True)
class ScoredCompletions:
    """Whole completions that were played, and their rewards."""

    completions: Completions
    """The completions that were played."""
    rewards_B: Tensor
    """The reward of each (float64 where the device has it), on the completions' device."""
    terminated_B: Tensor
    """True where it ended with an end-of-sequence token."""
    truncated_B: Tensor
    """True where the length limit cut it."""
    texts: tuple[str, ...]
    """The completions as text."""
    prompts: tuple[str, ...]
    """The prompts as text."""
    parts: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """The value of each part of the reward by name; empty where the reward has no parts."""


class Episodes:
    """B episodes: their tokens, how far they are and which have ended."""

    def __init__(self, num_rows: int, config: EpisodeConfig) -> None:
        """Make room for ``num_rows`` episodes; none has begun."""
        self.episode_config, self.num_rows = config, num_rows
        self.all_rows: Rows = np.arange(num_rows)
        self.batch: Rows = self.all_rows
        """Rows of the batch that is played: all, or the first of them."""
        self._clear()

    def _clear(self) -> None:
        shape = (self.num_rows, self.episode_config.prompt_length + self.episode_config.max_new_tokens)
        self._tokens_BS = np.full(shape, self.episode_config.language_model.pad_id, dtype=np.int64)
        self._mask_BS = np.zeros(shape, dtype=np.int8)
        self._lengths_B = np.zeros(self.num_rows, dtype=np.intp)
        self.ended_B = np.ones(self.num_rows, dtype=bool)
        self.prompts: list[Prompt | None] = [None] * self.num_rows

    @property
    def begun(self) -> bool:
        """True once every row has had a prompt."""
        return None not in self.prompts

    def begin_batch(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """Start new episodes in the first rows, and none in the others; returns an info for each."""
        self._clear()
        self.batch = self.all_rows[: len(prompts)]
        return self.begin(self.batch, prompts)

    def begin(self, rows: Rows, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """Start new episodes in some rows; returns an info for each: ``prompt`` and ``prompt_index``."""
        length = self.episode_config.prompt_length
        self._tokens_BS[rows] = self.episode_config.language_model.pad_id
        self._mask_BS[rows] = 0
        self._lengths_B[rows] = 0
        self.ended_B[rows] = False
        for row, prompt in zip(rows, prompts, strict=True):
            self._tokens_BS[row, length - len(prompt.ids) : length] = prompt.ids
            self._mask_BS[row, length - len(prompt.ids) : length] = 1
            self.prompts[row] = prompt
        return [_prompt_info(prompt) for prompt in prompts]

    def advance(
        self, actions_N: npt.NDArray[Any], rows: Rows | None = None
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Append one token in each of the rows (all of them by default).

        Returns:
            Which of these rows have terminated (end-of-sequence) and which are truncated (length limit), each (N,). An
            end-of-sequence token in the last place terminates.
        """
        rows = self.all_rows if rows is None else rows
        self.episode_config.check_tokens(actions_N, "sub-environment")
        columns = self._lengths_B[rows]
        columns += self.episode_config.prompt_length
        self._tokens_BS[rows, columns] = actions_N
        self._mask_BS[rows, columns] = 1
        self._lengths_B[rows] += 1
        terminated: npt.NDArray[np.bool_] = self.episode_config.ends_V[actions_N]
        truncated = (self._lengths_B[rows] == self.episode_config.max_new_tokens) & ~terminated
        self.ended_B[rows] = terminated | truncated
        self.episode_config.meter.add_generated(len(rows))
        return terminated, truncated

    def fill(self, tokens_BT: npt.NDArray[Any], mask_BT: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Play whole completions in the batch's rows at once; returns which of them terminate (the others are truncated).

        Raises:
            EpisodeEndedError: some episode is not at its start.
            ActionError: a completion that no sequence of steps could have made.
        """
        rows = self.batch
        if self.ended_B[rows].any() or self._lengths_B[rows].any():
            raise EpisodeEndedError("play starts from fresh episodes; call reset() before it")
        lengths_B = _checked_lengths(tokens_BT, mask_BT, len(rows), self.episode_config.max_new_tokens)
        tokens_BT = tokens_BT[:, : self.episode_config.max_new_tokens]
        mask_BT = mask_BT[:, : self.episode_config.max_new_tokens]
        # Tokens outside the mask were chosen by no policy, so any value is allowed there.
        tokens_BT = np.where(mask_BT, tokens_BT, self.episode_config.allowed_V.argmax())
        self.episode_config.check_tokens(tokens_BT, "completion")
        is_end_BT = self.episode_config.ends_V[tokens_BT] & mask_BT
        last = (np.arange(len(rows)), lengths_B - 1)
        terminated: npt.NDArray[np.bool_] = is_end_BT[last]
        if (is_end_BT.sum(1) > terminated).any():
            row = int(np.argmax(is_end_BT.sum(1) > terminated))
            raise ActionError(f"completion {row} continues after an end-of-sequence token; cut it there")
        short = ~terminated & (lengths_B < self.episode_config.max_new_tokens)
        if short.any():
            row = int(np.argmax(short))
            raise ActionError(
                f"completion {row} has {lengths_B[row]} tokens and no end-of-sequence token at its end; "
                f"an episode ends with one or after {self.episode_config.max_new_tokens} tokens"
            )
        start = self.episode_config.prompt_length
        filled = slice(start, start + tokens_BT.shape[1])
        self._tokens_BS[rows, filled] = np.where(mask_BT, tokens_BT, self.episode_config.language_model.pad_id)
        self._mask_BS[rows, filled] = mask_BT
        self._lengths_B[rows] = lengths_B
        self.ended_B[rows] = True
        self.episode_config.meter.add_generated(int(lengths_B.sum()))
        return terminated

    def finish(self, rows: Rows, *, scored: bool = True) -> FinishedEpisodes:
        """Score the episodes of some rows in one call of the reward; their rewards are NaN without ``scored``."""
        prompts = [self._prompt(row) for row in rows]
        start = self.episode_config.prompt_length
        tokens_BT, mask_BT = self._tokens_BS[rows, start:], self._mask_BS[rows, start:].astype(bool)
        if scored:
            rewards, texts = self.episode_config.judge(prompts, tokens_BT, mask_BT)
        else:
            rewards, texts = np.full(len(rows), np.nan), self.episode_config.texts(tokens_BT, mask_BT)
        infos = [{**_prompt_info(prompt), "completion": text} for prompt, text in zip(prompts, texts, strict=True)]
        return FinishedEpisodes(rows, rewards, infos)

    def observation(self) -> Observation:
        """A copy of all rows: later steps do not change it."""
        return {"tokens": self._tokens_BS.copy(), "mask": self._mask_BS.copy()}

    def row_observation(self, row: int) -> Observation:
        """A copy of one row."""
        return {"tokens": self._tokens_BS[row].copy(), "mask": self._mask_BS[row].copy()}

    def prompt_batch(self) -> PromptBatch:
        """The prompts of the batch's episodes, on the model's device."""
        rows, start = self.batch, self.episode_config.prompt_length
        device = self.episode_config.language_model.device
        return PromptBatch(
            torch.from_numpy(self._tokens_BS[rows, :start]).to(device),
            torch.from_numpy(self._mask_BS[rows, :start].astype(bool)).to(device),
            torch.tensor([self._prompt(row).index for row in rows], device=device),
        )

    def render(self, row: int) -> str:
        """One line: how far it is, prompt and completion."""
        if self.prompts[row] is None:
            return "(not reset)"
        start, length = self.episode_config.prompt_length, int(self._lengths_B[row])
        tokens = torch.from_numpy(self._tokens_BS[row : row + 1, start : start + length].copy())
        text = self.episode_config.language_model.decode(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
        mark = "ended" if self.ended_B[row] else "open"
        place = f"{length:>3}/{self.episode_config.max_new_tokens} {mark}"
        prompt, completion = (printable(one, keep="") for one in (self._prompt(row).text, text))
        return f"[{place}] {prompt} | {completion}"

    def state_dict(self) -> dict[str, Any] | None:
        """Episodes in progress as JSON values; None when every one has ended."""
        if self.ended_B.all():
            return None
        start = self.episode_config.prompt_length
        rows = [self._tokens_BS[row, start : start + int(self._lengths_B[row])].tolist() for row in self.all_rows]
        prompts = [None if prompt is None else [prompt.index, prompt.text] for prompt in self.prompts]
        return {"prompts": prompts, "completions": rows, "ended": self.ended_B.tolist()}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._clear()
        self.batch = self.all_rows
        if state is None:
            return
        begun = sum(saved is not None for saved in state["prompts"])
        self.batch = self.all_rows[: begun or self.num_rows]
        for row, saved in enumerate(state["prompts"]):
            if saved is None:
                continue
            index, text = saved
            prompt = (
                self.episode_config.prompts[index] if index != OWN_PROMPT else self.episode_config.prompt_of_text(text)
            )
            self.begin(self.all_rows[row : row + 1], [prompt])
            completion = state["completions"][row]
            start = self.episode_config.prompt_length
            self._tokens_BS[row, start : start + len(completion)] = completion
            self._mask_BS[row, start : start + len(completion)] = 1
            self._lengths_B[row] = len(completion)
        self.ended_B[:] = state["ended"]

    def _prompt(self, row: int) -> Prompt:
        prompt = self.prompts[row]
        if prompt is None:
            raise EpisodeEndedError("no episode has begun; call reset() first")
        return prompt


def _prompt_info(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt.text, "prompt_index": prompt.index}


def _checked_lengths(
    tokens_BT: npt.NDArray[Any], mask_BT: npt.NDArray[np.bool_], rows: int, limit: int
) -> npt.NDArray[np.intp]:
    if tokens_BT.shape != mask_BT.shape or tokens_BT.ndim != 2 or len(tokens_BT) != rows:
        raise ActionError(
            f"completions have tokens of shape {tokens_BT.shape} and a mask of shape {mask_BT.shape}, "
            f"expected ({rows}, T) twice"
        )
    lengths_B: npt.NDArray[np.intp] = mask_BT.sum(1, dtype=np.intp)
    if lengths_B.size and (lengths_B.min() < 1 or lengths_B.max() > limit):
        row = int(np.argmax((lengths_B < 1) | (lengths_B > limit)))
        raise ActionError(f"completion {row} has {lengths_B[row]} tokens, expected 1 to {limit}")
    if (mask_BT != (np.arange(mask_BT.shape[1]) < lengths_B[:, None])).any():
        raise ActionError("a completion's mask has a hole; it must be True from its first token to its last")
    return lengths_B
