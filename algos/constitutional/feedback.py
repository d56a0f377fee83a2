"""Stage 2 of Constitutional AI: which of two responses the critic prefers (Bai et al. 2022, section 4).

Two ways to ask. A constitution with *choices* shows the critic both responses and reads the probabilities of the two options; each
pair is shown in both orders, since a model may favor an option for its place or its letter, and the two are averaged. A
constitution with *verdicts* has each response judged alone, so that no order exists, and compares the two distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bakeoff.algos.constitutional.constitution import Constitution, Principle
from bakeoff.algos.constitutional.prompting import PromptedModel, cleaned


@dataclass(frozen=True)
class Judgment:
    """What the critic thinks of N pairs (first, second), by K principles."""

    preference_NK: Tensor
    """Probability that the first is the better one, by each principle, both orders averaged; not clamped."""
    first_place_NK2: Tensor | None
    """Probability that was given to the response in first place: with the first shown first, and with the second shown first.
    None where responses are judged alone."""
    option_mass: float
    """Mean probability of all options together: near 0 the critic preferred another answer than the options."""
    principles: tuple[tuple[Principle, ...], ...]
    """N times K principles that were asked; N empty ones where responses are judged alone."""

    @property
    def preference_N(self) -> Tensor:
        """The mean over principles."""
        return self.preference_NK.mean(1)

    def figures(self) -> dict[str, float]:
        """How decided the critic is, and how much of it is owed to the order."""
        figures = {
            "preference_margin": float((self.preference_N - 0.5).abs().mean()),
            "option_mass": self.option_mass,
        }
        if self.first_place_NK2 is not None:
            figures |= position_bias(self.first_place_NK2)
        if self.preference_NK.shape[1] > 1:
            figures["principle_spread"] = float(self.preference_NK.std(1).mean())
        return figures


def position_bias(first_place_NK2: Tensor) -> dict[str, float]:
    """How far choices depend on the order in which responses are shown.

    Returns:
        `position_bias`: mean probability of the response in first place less one half (0 without bias, +-0.5 where only the place
        counts); `order_flips`: share of pairs whose winner changes when the order does (one half if judgments are noise, 1 if
        only the place counts).
    """
    first_shown_first, second_shown_first = first_place_NK2[..., 0], first_place_NK2[..., 1]
    flips = (first_shown_first > 0.5) == (second_shown_first > 0.5)
    return {"position_bias": float(first_place_NK2.mean()) - 0.5, "order_flips": float(flips.float().mean())}


def judge(
    constitution: Constitution,
    critic: PromptedModel,
    prompts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    *,
    principles: int,
    generator: torch.Generator,
) -> Judgment:
    """Ask the critic which response of each pair is the better one.

    Args:
        constitution: principles and templates.
        critic: the model that judges.
        prompts: N prompts as text.
        first: a response to each.
        second: another response to each.
        principles: K, how many are drawn for each pair, without replacement; at most as many as there are.
        generator: draws them.
    """
    if constitution.judges_alone:
        verdicts_NV, mass_N = rate(constitution, critic, [*prompts, *prompts], [*first, *second])
        first_NV, second_NV = verdicts_NV.tensor_split(2)
        preference_N1 = better_probability(first_NV, second_NV)[:, None]
        return Judgment(preference_N1, None, float(mass_N.mean()), ((),) * len(prompts))
    choices = constitution.steps("choice")
    count = min(principles, len(choices))
    drawn = [
        tuple(choices[i] for i in torch.randperm(len(choices), generator=generator)[:count].tolist()) for _ in prompts
    ]
    questions = []
    for prompt, a, b, asked in zip(prompts, first, second, drawn, strict=True):
        for principle in asked:
            for left, right in ((a, b), (b, a)):
                case = {"prompt": prompt, "response_a": left.strip(), "response_b": right.strip()}
                questions.append(constitution.ask("choice", principle, cleaned(critic, case), chat=critic.chat))
    chances, mass = critic.weigh(questions, constitution.options)
    first_place_NK2 = chances[:, 0].reshape(len(prompts), count, 2)
    return Judgment(average_orders(first_place_NK2), first_place_NK2, float(mass.mean()), tuple(drawn))


def rate(
    constitution: Constitution, critic: PromptedModel, prompts: Sequence[str], responses: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Probabilities of the verdicts on each response, worst first, (N, verdicts), and the mass on all of them, (N,)."""
    questions = [
        constitution.ask("verdict", None, cleaned(critic, {"prompt": p, "response": r}), chat=critic.chat)
        for p, r in zip(prompts, responses, strict=True)
    ]
    return critic.weigh(questions, constitution.verdicts)


def average_orders(first_place_NK2: Tensor) -> Tensor:
    """Probability that the first response is the better one, (N, K), from that of first place in both orders.

    Shown second, the first response has what first place has not: (p + 1 - q) / 2. A constant bias to either place cancels.
    """
    return (first_place_NK2[..., 0] + 1 - first_place_NK2[..., 1]) / 2


def better_probability(first_NV: Tensor, second_NV: Tensor) -> Tensor:
    """Probability that the first has the better verdict, a tie being worth one half, shape (N,).

    Args:
        first_NV: probabilities of the verdicts on it, worst first.
        second_NV: of those on the other one, drawn independently.
    """
    worse_NV = second_NV.cumsum(1) - second_NV  # that the second gets a lower verdict than this one
    return (first_NV * (worse_NV + second_NV / 2)).sum(1)


def verdict_scores(verdicts_NV: Tensor) -> Tensor:
    """Expected place on the scale of verdicts, from -1 (the worst) to 1 (the best), shape (N,)."""
    return verdicts_NV @ torch.linspace(-1, 1, verdicts_NV.shape[1])
