"""Which of two completions is the better one, from their rewards: what a judge would have said."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bakeoff.algos.losses.rounding import tied

Labels = Literal["bradley_terry", "deterministic", "soft"]


def label_pairs(
    rewards_B2: Tensor, labels: Labels, temperature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Which side is chosen, and how sure that is.

    The probability that the first is better is sigmoid((r_1 - r_2) / temperature) (Bradley and Terry 1952). `bradley_terry`
    draws the label with it, as one rater would; `deterministic` takes the greater reward; `soft` takes the greater reward and keeps
    its probability: the mean of infinitely many raters. Equal rewards have no better side: a coin names the chosen one, and its
    probability is one half, whatever the labels.

    Args:
        rewards_B2: rewards of both completions.
        labels: how to judge.
        temperature: tau, by how much rewards have to differ for the judgment to be clear; `deterministic` does not read it.
        generator: draws labels and coins.

    Returns:
        The chosen side, 0 or 1, int64 (B,), and the probability that it is the better one, float32 (B,): 1 but for `soft` and
        equal rewards.
    """
    rewards_B2 = rewards_B2.double().cpu()
    difference_B = rewards_B2[:, 0] - rewards_B2[:, 1]
    tied_B = tied(rewards_B2[:, 0], rewards_B2[:, 1])
    uniform_B = torch.rand(len(difference_B), generator=generator, dtype=torch.float64)
    chance_B = torch.where(tied_B, 0.5, (difference_B / temperature).sigmoid())
    drawn_B = uniform_B < chance_B
    first_B = drawn_B if labels == "bradley_terry" else torch.where(tied_B, drawn_B, difference_B > 0)
    kept_B = tied_B if labels != "soft" else torch.ones_like(tied_B)  # whose probability is kept
    sure_B = torch.where(kept_B, torch.where(first_B, chance_B, 1 - chance_B), 1.0)
    return (~first_B).long(), sure_B.float()
