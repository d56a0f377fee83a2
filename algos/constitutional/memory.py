"""Completions that were collected to be imitated, on the CPU, part of a run's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import Completions, PromptBatch


class CompletionMemory:
    """All completions that were added, in order. They are of one environment, so of one shape."""

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self._rows["indices"]) if self._rows else 0

    def add(self, completions: Completions) -> None:
        """Keep tokens and prompts; log-probabilities and activations are not kept."""
        prompts = completions.prompts
        new = {
            "prompt_tokens": prompts.tokens_BP,
            "prompt_mask": prompts.mask_BP,
            "indices": prompts.indices_B,
            "tokens": completions.tokens_BT,
            "mask": completions.mask_BT,
        }
        moved = {name: value.cpu() for name, value in new.items()}
        self._rows = {name: torch.cat([self._rows[name], v]) if self._rows else v for name, v in moved.items()}

    @property
    def completions(self) -> Completions:
        """All of them.

        Raises:
            ValueError: there are none.
        """
        if not self._rows:
            raise ValueError("no completions were added yet")
        rows = self._rows
        prompts = PromptBatch(rows["prompt_tokens"], rows["prompt_mask"], rows["indices"])
        return Completions(prompts, rows["tokens"], rows["mask"])

    def state_dict(self) -> dict[str, Any]:
        """The tensors, by name."""
        return dict(self._rows)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._rows = dict(state)
