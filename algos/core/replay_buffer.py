"""A bounded memory of whole completions, from which batches are drawn uniformly or by priority.

A row is a completion with its prompt, its score, and the log-probabilities of its own tokens under the policy that sampled it
and under the reference: numbers per token, never a vocabulary's width of them. The oldest rows make room for new ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bakeoff.algos.core.rollout import Rollout
from bakeoff.envs.language_model.completions import Completions, PromptBatch

SMALLEST_PRIORITY = 1e-3
"""Added to each priority, so that what is explained already still comes up now and then."""


class ReplayBuffer:
    """A ring of completions on the CPU; memory is fixed at the first :meth:`add`."""

    def __init__(self, capacity: int, *, priority_alpha: float = 0.0) -> None:
        """Args:
        capacity: rows to keep.
        priority_alpha: rows are drawn in proportion to priority ** exponent; 0 draws uniformly (Schaul et al. 2016).
        """
        self.capacity, self.priority_alpha = capacity, priority_alpha
        self.added = 0
        self._rows: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        return sum(x.numel() * x.element_size() for x in self._rows.values())

    def add(self, rollout: Rollout) -> None:
        """Keep a batch; activations of a frozen trunk are not kept."""
        completions = rollout.completions
        new = {
            "prompt_tokens": completions.prompts.tokens_BP.int(),
            "prompt_lengths": completions.prompts.mask_BP.sum(1).int(),
            "prompt_indices": completions.prompts.indices_B,
            "tokens": completions.tokens_BT.int(),
            "lengths": completions.lengths_B.int(),
            "scores": rollout.scores_B.float(),
            "logprobs": rollout.logprobs_BT.float(),
            "reference_logprobs": rollout.reference_logprobs_BT.float(),
        }
        kept = min(len(rollout), self.capacity)
        slots = torch.arange(self.added + len(rollout) - kept, self.added + len(rollout)) % self.capacity
        if not self._rows:
            self._rows = {k: torch.zeros(self.capacity, *v.shape[1:], dtype=v.dtype) for k, v in new.items()}
            self._rows["priorities"] = torch.zeros(self.capacity)
        # What is new has not been learned from yet: it comes first.
        new["priorities"] = self._rows["priorities"].max().clamp_min(1.0).expand(len(rollout))
        for name, values in new.items():
            self._rows[name][slots] = values[-kept:].detach().cpu()
        self.added += len(rollout)

    def batch(self, rows: Tensor, device: torch.device | str = "cpu") -> Rollout:
        """The named rows, cut to their longest completion and prompt."""
        part = {name: values[rows] for name, values in self._rows.items()}
        width, length = int(part["prompt_lengths"].max()), int(part["lengths"].max())
        P = part["prompt_tokens"].shape[1]
        prompts = PromptBatch(
            part["prompt_tokens"][:, P - width :].long().to(device),
            (torch.arange(width) >= width - part["prompt_lengths"][:, None]).to(device),
            part["prompt_indices"].to(device),
        )
        mask_BT = (torch.arange(length) < part["lengths"][:, None]).to(device)
        logprobs_BT = part["logprobs"][:, :length].to(device)
        completions = Completions(prompts, part["tokens"][:, :length].long().to(device), mask_BT, logprobs_BT)
        reference_BT = part["reference_logprobs"][:, :length].to(device)
        return Rollout(completions, part["scores"].to(device), logprobs_BT, reference_BT)

    def sample(self, count: int, generator: torch.Generator, *, group_size: int = 1) -> Tensor:
        """Row numbers of ``count`` different rows, or of all where there are no more; shape (at most count,).

        Args:
            count: rows wanted.
            generator: draws them.
            group_size: rows of one prompt to draw together, as far as there are as many; ``count`` is cut to whole groups.
        """
        chances = self.chances()
        if group_size == 1 or count >= len(chances):
            return _draw(chances, count, generator)
        anchors = _draw(chances, max(1, count // group_size), generator)
        prompts_N = self._rows["prompt_indices"][: len(self)]
        chosen = []
        for prompt, groups in zip(*torch.unique(prompts_N[anchors], return_counts=True), strict=True):
            same = (prompts_N == prompt).nonzero()[:, 0]
            chosen.append(same[_draw(chances[same], int(groups) * group_size, generator)])
        return torch.cat(chosen)

    def chances(self) -> Tensor:
        """The probability of each row to be drawn first, shape (N,)."""
        weights = self._rows["priorities"][: len(self)] ** self.priority_alpha
        return weights / weights.sum()

    def correction(self, rows: Tensor, exponent: float) -> Tensor:
        """Importance weights (N p)^-exponent, the largest of them 1, shape (B,) (Schaul et al. 2016, section 3.4)."""
        weights = (self.chances()[rows] * len(self)) ** -exponent
        return weights / weights.max()

    def prioritize(self, rows: Tensor, errors_B: Tensor) -> None:
        """Set the priorities of some rows to the size of their errors."""
        self._rows["priorities"][rows] = errors_B.detach().abs().float().cpu() + SMALLEST_PRIORITY

    def state_dict(self) -> dict[str, Any]:
        """The rows that are filled, and how many were ever added."""
        return {"added": self.added, "rows": {name: values[: len(self)] for name, values in self._rows.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.added, self._rows = state["added"], {}
        for name, values in state["rows"].items():
            self._rows[name] = torch.zeros(self.capacity, *values.shape[1:], dtype=values.dtype)
            self._rows[name][: len(values)] = values


def _draw(chances_N: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Different row numbers, each drawn in proportion to its chance among those that are left."""
    return torch.multinomial(chances_N, min(count, len(chances_N)), generator=generator)
