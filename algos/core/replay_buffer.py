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
from bakeoff.envs.precision import accurate

SMALLEST_PRIORITY = 1e-3
"""Added to each priority, so that what is explained already still comes up now and then."""
ROUNDING = 1e-9
"""A row this close to being drawn in any case is drawn in any case."""


class ReplayBuffer:
    """A ring of completions on the CPU; memory is fixed at the first :meth:`add`."""

    def __init__(self, capacity: int, *, priority_alpha: float = 0.0) -> None:
        """Args:
        capacity: rows to keep.
        priority_alpha: rows are drawn in proportion to priority ** priority_alpha; 0 draws uniformly (Schaul et al. 2016).
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
            "scores": rollout.scores_B.cpu().double(),
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
        return Rollout(
            completions, part["scores"].to(device, accurate(torch.device(device))), logprobs_BT, reference_BT
        )

    def sample(self, count: int, generator: torch.Generator, *, group_size: int = 1) -> Tensor:
        """Row numbers of ``count`` different rows, or of all where there are no more; shape (at most count,).

        Args:
            count: rows wanted.
            generator: draws them.
            group_size: rows of one prompt to draw together, as far as there are as many; ``count`` is cut to whole groups.
        """
        return self.weighted_sample(count, generator, group_size=group_size)[0]

    def weighted_sample(
        self, count: int, generator: torch.Generator, *, beta: float = 1.0, group_size: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Rows as by :meth:`sample`, and their importance weights, both (B,).

        A weight is (B / (N pi))^beta with pi the row's probability of being drawn, which is known exactly: with ``beta`` 1 the
        weighted mean over a sample has the mean over the buffer as its expectation (Horvitz and Thompson 1952), whatever the
        priorities. Schaul et al. 2016 (section 3.4) give the weight for draws with replacement, and divide by the largest weight
        of a batch; here rows are different, and a divisor that depends on the draw would bias the mean.

        Args:
            count: rows wanted.
            generator: draws them.
            beta: 1 takes all of the priorities back, 0 nothing.
            group_size: as in :meth:`sample`.
        """
        chances = self.chances()
        if self.priority_alpha == 0:
            rows = self._uniform(chances, count, generator, group_size)
            return rows, torch.ones(len(rows))
        if group_size == 1 or count >= len(chances):
            rows, expected = draw_different(chances, count, generator)
        else:
            rows, expected = self._groups(chances, max(1, count // group_size), group_size, generator)
        return rows, (len(rows) / (len(self) * expected)).pow(beta).float()

    def _uniform(self, chances: Tensor, count: int, generator: torch.Generator, group_size: int) -> Tensor:
        if group_size == 1 or count >= len(chances):
            return torch.multinomial(chances, min(count, len(chances)), generator=generator)
        anchors = torch.multinomial(chances, max(1, count // group_size), generator=generator)
        prompts_N = self._rows["prompt_indices"][: len(self)]
        chosen = []
        for prompt, groups in zip(*torch.unique(prompts_N[anchors], return_counts=True), strict=True):
            same = (prompts_N == prompt).nonzero()[:, 0]
            wanted = min(int(groups) * group_size, len(same))
            chosen.append(same[torch.multinomial(chances[same], wanted, generator=generator)])
        return torch.cat(chosen)

    def _groups(
        self, chances: Tensor, count: int, group_size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """``count`` groups: prompts in proportion to the sum of their rows' chances, then rows of each; rows (B,), and what to
        divide by for an unbiased sum (B,).

        Given g groups of a prompt, the sum over its drawn rows divided by their inclusion probabilities is unbiased for the
        prompt's sum; times g / E[g], it stays so over the draws of g.
        """
        prompts, prompt_N = torch.unique(self._rows["prompt_indices"][: len(self)], return_inverse=True)
        expected_K = count * torch.zeros(len(prompts), dtype=torch.float64).index_add(0, prompt_N, chances.double())
        groups_K = systematic(expected_K, count, generator)
        rows, divisors = [], []
        for prompt in groups_K.nonzero()[:, 0]:
            same, groups = (prompt_N == prompt).nonzero()[:, 0], int(groups_K[prompt])
            drawn, inclusion = draw_different(chances[same], groups * group_size, generator)
            rows.append(same[drawn])
            divisors.append(inclusion * expected_K[prompt] / groups)
        return torch.cat(rows), torch.cat(divisors)

    def chances(self) -> Tensor:
        """The share of each row in what is drawn, shape (N,): its probability where one row is drawn."""
        weights = self._rows["priorities"][: len(self)] ** self.priority_alpha
        return weights / weights.sum()

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


def draw_different(chances_N: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` different row numbers, or all where there are no more, and the probability of each to be among them, both (B,).

    That probability is ``count`` times the row's chance, or 1 where this is more; the others then share what is left in
    proportion to their chances.
    """
    count = min(count, len(chances_N))
    inclusion_N = torch.zeros(len(chances_N), dtype=torch.float64)
    certain_N = torch.zeros(len(chances_N), dtype=torch.bool)
    while count > int(certain_N.sum()):
        inclusion_N = chances_N.double() * ~certain_N
        inclusion_N = inclusion_N * ((count - int(certain_N.sum())) / inclusion_N.sum())
        more_N = inclusion_N >= 1 - ROUNDING
        certain_N |= more_N
        if not more_N.any():
            break
    left = count - int(certain_N.sum())
    drawn_N = certain_N.clone()
    if left:
        drawn_N |= systematic(inclusion_N * ~certain_N, left, generator) > 0
    inclusion_N[certain_N] = 1.0
    rows = drawn_N.nonzero()[:, 0]
    return rows, inclusion_N[rows]


def systematic(expected_N: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """How often each of N is drawn in ``count`` draws, shape (N,): its expectation rounded up or down, right on average.

    Systematic sampling (Madow 1949) in random order: intervals of these lengths lie one after the other, and points at distance
    1 with one random start are drawn.

    Args:
        expected_N: expectations, which add up to ``count``.
        count: draws.
        generator: of the order and the start.
    """
    order = torch.randperm(len(expected_N), generator=generator)
    ends = expected_N.double()[order].cumsum(0)
    points = torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(count)
    hit = torch.searchsorted(ends * (count / ends[-1]), points, right=True).clamp_max(len(order) - 1)
    return torch.bincount(order[hit], minlength=len(order))
