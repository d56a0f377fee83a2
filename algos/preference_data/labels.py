"""Which of two completions is the better one, from their rewards: what a judge would have said."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Labels = Literal["bradley_terry", "deterministic", "soft"]


def label_pairs(
    rewards_B2: Tensor, labels: Labels, temperature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Which side is chosen, and how sure that is.

    The probability that the first is better is sigmoid((r_1 - r_2) / temperature) (Bradley and Terry 1952). `bradley_terry`
    draws the label with it, as one rater would; `deterministic` takes the greater reward, equal ones by the toss of a coin;
    `soft` takes the greater reward and keeps its probability: the mean of infinitely many raters.

    Args:
        rewards_B2: rewards of both completions.
        labels: how to judge.
        temperature: tau, by how much rewards have to differ for the judgment to be clear.
        generator: draws labels and coins.

    Returns:
        The chosen side, 0 or 1, int64 (B,), and the probability that it is the better one, float32 (B,): 1 but for `soft`.
    """
    difference_B = (rewards_B2[:, 0] - rewards_B2[:, 1]).double().cpu()
    uniform_B = torch.rand(len(difference_B), generator=generator, dtype=torch.float64)
    chance_B = (difference_B / temperature).sigmoid()
    greater_B = (difference_B > 0) | ((difference_B == 0) & (uniform_B < 0.5))
    first_B = uniform_B < chance_B if labels == "bradley_terry" else greater_B
    sure_B = torch.where(first_B, chance_B, 1 - chance_B) if labels == "soft" else torch.ones_like(chance_B)
    return (~first_B).long(), sure_B.float()
