"""What a model is asked, step by step: texts with placeholders, in turns for chat models and in one piece for plain ones.

A template is filled in one pass: what is put in is never read for placeholders again, whatever a model has written.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Step = Literal["critique", "revision", "choice", "verdict"]
Turn = tuple[str, str]
"""A role (``system``, ``user``, ``assistant``; ``text`` in a plain template) and what is said."""

ROLES: Final = ("system", "user", "assistant")
PLAIN: Final = "text"

_ABOUT_ONE: Final = ("prompt", "opening", "response", "request")
PLACEHOLDERS: Final[Mapping[Step, tuple[str, ...]]] = {
    "critique": _ABOUT_ONE,
    "revision": (*_ABOUT_ONE, "critique_request", "critique"),
    "choice": ("prompt", "opening", "response_a", "response_b", "request"),
    "verdict": ("prompt", "opening", "response"),
}
"""What each step's template may hold. ``request`` is the principle's text for that step, ``opening`` the prompt without a tag."""


class PlaceholderError(ValueError):
    """A placeholder that nothing fills, or a brace that belongs to none; ``line`` counts from the text's first line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Text:
    """A text with placeholders."""

    parts: tuple[tuple[str, str | None], ...]
    """Literal text, each followed by the name of a placeholder or by nothing."""

    @classmethod
    def literal(cls, text: str) -> Text:
        """A text in which braces mean nothing."""
        return cls(((text, None),))

    @classmethod
    def parse(cls, text: str, allowed: Sequence[str]) -> Text:
        """Read ``{name}``; ``{{`` and ``}}`` stand for braces.

        Raises:
            PlaceholderError: a name that is not allowed, or a lone brace.
        """
        parts: list[tuple[str, str | None]] = []
        try:
            for literal, name, spec, conversion in string.Formatter().parse(text):
                if name is not None and (name not in allowed or spec or conversion):
                    line = text[: max(0, text.find("{" + name))].count("\n")
                    known = ", ".join("{" + one + "}" for one in allowed)
                    raise PlaceholderError(f"unknown placeholder {{{name}}}; known here: {known}", line)
                parts.append((literal, name))
        except PlaceholderError:
            raise
        except ValueError as error:
            line = _line_of_lone_brace(text)
            raise PlaceholderError(f"{str(error).lower()}; write {{{{ or }}}} for a brace itself", line) from None
        return cls(tuple(parts))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with every placeholder replaced."""
        return "".join(literal + (values[name] if name is not None else "") for literal, name in self.parts)

    @property
    def names(self) -> set[str]:
        """The placeholders that it holds."""
        return {name for _, name in self.parts if name is not None}


@dataclass(frozen=True)
class Template:
    """What is asked in one step."""

    turns: tuple[tuple[str, Text], ...]
    """Role and text of each turn; a plain template is one turn. A last turn of the assistant is one that it continues."""

    def fill(self, values: Mapping[str, str]) -> list[Turn]:
        """The turns with every placeholder replaced."""
        return [(role, text.fill(values)) for role, text in self.turns]

    @property
    def names(self) -> set[str]:
        """The placeholders that it holds."""
        return set().union(*(text.names for _, text in self.turns))


def _line_of_lone_brace(text: str) -> int:
    """Lines before the first one that cannot be read on its own."""
    for number, line in enumerate(text.split("\n")):
        try:
            list(string.Formatter().parse(line))
        except ValueError:
            return number
    return 0


def _chat(step: Step, *turns: Turn) -> Template:
    return Template(tuple((role, Text.parse(text, PLACEHOLDERS[step])) for role, text in turns))


def _plain(step: Step, text: str) -> Template:
    return Template(((PLAIN, Text.parse(text, PLACEHOLDERS[step])),))


_ASKED: Final = (("user", "{prompt}"), ("assistant", "{response}"))
_CHOICE: Final = (
    "Here is what somebody asked an assistant, and two answers.\n\nQuestion: {prompt}\n\n{request}\n\n"
    "(A) {response_a}\n\n(B) {response_b}"
)

CHAT_DEFAULTS: Final[Mapping[Step, Template]] = {
    "critique": _chat("critique", *_ASKED, ("user", "{request}")),
    "revision": _chat(
        "revision", *_ASKED, ("user", "{critique_request}"), ("assistant", "{critique}"), ("user", "{request}")
    ),
    "choice": _chat("choice", ("user", _CHOICE), ("assistant", "The better answer is (")),
}
PLAIN_DEFAULTS: Final[Mapping[Step, Template]] = {
    "critique": _plain("critique", "Question: {prompt}\n\nAnswer: {response}\n\n{request}\n\nCritique:"),
    "revision": _plain(
        "revision",
        "Question: {prompt}\n\nAnswer: {response}\n\n{critique_request}\n\nCritique: {critique}\n\n{request}\n\nRevision:",
    ),
    "choice": _plain("choice", f"{_CHOICE}\n\nThe better answer is ("),
}
"""What is asked where a constitution has no templates of its own; a verdict has no default."""
