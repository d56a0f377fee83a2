"""A constitution: principles to criticize, revise and choose by, and how a model is asked to apply them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from bakeoff.algos.constitutional.templates import CHAT_DEFAULTS, PLAIN_DEFAULTS, Step, Template, Text, Turn


@dataclass(frozen=True)
class Principle:
    """One rule; a text that is None leaves the principle out of that step."""

    name: str
    """How records and reports call it."""
    critique: Text | None = None
    """Asks for a critique of a response."""
    revision: Text | None = None
    """Asks for a revision in the light of a critique."""
    choice: Text | None = None
    """Asks which of two responses is the better one."""


@dataclass(frozen=True)
class Example:
    """One solved case of a step, shown before the case that is asked (few-shot)."""

    values: Mapping[str, str]
    """What fills the step's template."""
    answer: str
    """What was answered."""


@dataclass(frozen=True)
class Constitution:
    """Principles and templates."""

    name: str
    """How records and reports call it."""
    principles: tuple[Principle, ...]
    """The rules."""
    chat: Mapping[Step, Template] = field(default_factory=dict)
    """Templates for chat models; a step that is missing is asked by the default."""
    plain: Mapping[Step, Template] = field(default_factory=dict)
    """Templates for plain models; likewise."""
    options: tuple[str, str] = ("A", "B")
    """How a choice names the first and the second response."""
    verdicts: tuple[str, ...] = ()
    """Answers to the verdict template, worst first. With them the critic judges each response alone; without it chooses."""
    tags: tuple[str, ...] = ()
    """What ``{opening}`` leaves out where a prompt begins with it."""
    examples: Mapping[Step, tuple[Example, ...]] = field(default_factory=dict)
    """Solved cases, by step."""
    separator: str = "\n\n"
    """What stands between the examples of a plain template."""

    def steps(self, step: Step) -> tuple[Principle, ...]:
        """The principles that have a text for a step."""
        return tuple(p for p in self.principles if getattr(p, step, None) is not None)

    @property
    def revising(self) -> tuple[Principle, ...]:
        """The principles that critique and revision go by."""
        return self.steps("revision")

    @property
    def judges_alone(self) -> bool:
        """The critic gives each response a verdict; else it is shown two and chooses."""
        return bool(self.verdicts)

    def opening(self, prompt: str) -> str:
        """The prompt without its tag and the space behind it."""
        for tag in self.tags:
            if prompt.startswith(tag):
                return prompt[len(tag) :].strip()
        return prompt

    def ask(self, step: Step, principle: Principle | None, values: Mapping[str, str], *, chat: bool) -> list[Turn]:
        """The turns that put one step to a model.

        Args:
            step: which.
            principle: whose text is the request; None for a verdict.
            values: what fills the other placeholders; model text in it must have been cleaned of special tokens.
            chat: whether the model is a chat model.
        """
        template = self.template(step, chat=chat)
        values = {"opening": self.opening(values["prompt"]), **values}
        if principle is not None:
            for name, text in (("critique_request", principle.critique), ("request", getattr(principle, step))):
                values[name] = "" if text is None else text.fill(values)
        turns: list[Turn] = []
        for example in self.examples.get(step, ()):
            turns += _answered(template.fill(example.values), example.answer, "" if chat else self.separator)
        turns += template.fill(values)
        return turns if chat else [("text", "".join(text for _, text in turns))]

    def template(self, step: Step, *, chat: bool) -> Template:
        """Its own template of a step, or the default."""
        own, defaults = (self.chat, CHAT_DEFAULTS) if chat else (self.plain, PLAIN_DEFAULTS)
        return own[step] if step in own else defaults[step]

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """Numbers of principles to revise by, one for each of ``count`` responses, with replacement."""
        return torch.randint(len(self.revising), (count,), generator=generator).tolist()

    def problems(self, *, revise: bool, judge: bool, chat: bool) -> list[str]:
        """What it lacks for some stages on some kind of model."""
        found = []
        if revise and not self.revising:
            found.append(
                f'constitution "{self.name}" has no principle with a revision; stage critique_revise needs one'
            )
        if judge and self.judges_alone:
            if "verdict" not in (self.chat if chat else self.plain):
                found.append(
                    f'constitution "{self.name}" has no verdict template for {"chat" if chat else "plain"} models'
                )
        elif judge and not self.steps("choice"):
            found.append(f'constitution "{self.name}" has no principle with a choice; stage ai_feedback needs one')
        return found


def _answered(turns: list[Turn], answer: str, separator: str) -> list[Turn]:
    """A filled template with its answer: in the assistant's open turn, or in a turn of its own."""
    role, text = turns[-1]
    if role in ("assistant", "text"):
        return [*turns[:-1], (role, text + answer + separator)]
    return [*turns, ("assistant", answer)]
