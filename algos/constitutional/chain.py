"""Stage 1 of Constitutional AI: a response, and rounds of a critique and a revision (Bai et al. 2022, section 3).

All prompts of a batch go through each step together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bakeoff.algos.constitutional.constitution import Constitution, Principle
from bakeoff.algos.constitutional.prompting import PromptedModel, cleaned
from bakeoff.envs.language_model.completions import Completions, PromptBatch


@dataclass(frozen=True)
class Round:
    """One round of critique and revision over a batch."""

    principles: tuple[Principle, ...]
    """What each response was criticized by."""
    critiques: tuple[str, ...]
    """What the critic said of the text before."""
    revisions: Completions
    """The revisions as completions of the *original* prompts."""
    texts: tuple[str, ...]
    """The revisions as text."""
    kept: tuple[str, ...]
    """The text that stands after this round: the revision, or the one before where it is empty."""


def critique_and_revise(
    constitution: Constitution,
    critic: PromptedModel,
    author: PromptedModel,
    prompts: PromptBatch,
    prompt_texts: Sequence[str],
    responses: Sequence[str],
    *,
    rounds: int,
    critique_tokens: int,
    revision_tokens: int,
    generator: torch.Generator,
) -> list[Round]:
    """Criticize and revise a batch of responses, round by round.

    Args:
        constitution: principles and templates; a principle is drawn for each response in each round.
        critic: writes the critiques.
        author: writes the revisions.
        prompts: what was answered, N of them.
        prompt_texts: the same as text.
        responses: the answers as text.
        rounds: how often.
        critique_tokens: length limit of a critique.
        revision_tokens: length limit of a revision, that of the environment.
        generator: draws principles and text.
    """
    found: list[Round] = []
    current = tuple(responses)
    for _ in range(rounds):
        drawn = tuple(constitution.revising[i] for i in constitution.draw(len(current), generator))
        cases = [{"prompt": p, "response": r} for p, r in zip(prompt_texts, current, strict=True)]
        critiques = _critiques(constitution, critic, drawn, cases, critique_tokens, generator)
        cases = [{**case, "critique": critique} for case, critique in zip(cases, critiques, strict=True)]
        questions = [
            constitution.ask("revision", principle, cleaned(author, case), chat=author.chat)
            for principle, case in zip(drawn, cases, strict=True)
        ]
        written, texts = author.write(questions, revision_tokens, generator)
        # The revision answers the prompt, not the request to revise: its tokens go behind the prompt as they are.
        revisions = dataclasses.replace(written, prompts=prompts, logprobs_BT=None, features_BSD=None)
        current = tuple(new if new.strip() else old for new, old in zip(texts, current, strict=True))
        found.append(Round(drawn, critiques, revisions, tuple(texts), current))
    return found


def _critiques(
    constitution: Constitution,
    critic: PromptedModel,
    principles: Sequence[Principle],
    cases: Sequence[dict[str, str]],
    critique_tokens: int,
    generator: torch.Generator,
) -> tuple[str, ...]:
    """One critique of each response; none is written by a principle that does not ask for one."""
    asked = [i for i, principle in enumerate(principles) if principle.critique is not None]
    critiques = [""] * len(cases)
    if asked:
        questions = [
            constitution.ask("critique", principles[i], cleaned(critic, cases[i]), chat=critic.chat) for i in asked
        ]
        for i, text in zip(asked, critic.write(questions, critique_tokens, generator)[1], strict=True):
            critiques[i] = text.strip()
    return tuple(critiques)


def last_revisions(responses: Completions, rounds: Sequence[Round]) -> tuple[Completions, list[int]]:
    """What to imitate: each row's last revision that has text, and the rows that have one at all.

    Args:
        responses: gives the shape; its tokens are what stays where no revision has text.
        rounds: in order.
    """
    tokens_BT, mask_BT = responses.tokens_BT.clone(), responses.mask_BT.clone()
    usable: set[int] = set()
    for one in rounds:
        rows = [i for i, text in enumerate(one.texts) if text.strip()]
        tokens_BT[rows], mask_BT[rows] = one.revisions.tokens_BT[rows], one.revisions.mask_BT[rows]
        usable.update(rows)
    return Completions(responses.prompts, tokens_BT, mask_BT), sorted(usable)
