"""Rewards that look at nothing but the text: how long it is, and what stands in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bakeoff.envs.rewards.call import AnyReward
from bakeoff.errors import ConfigError


@dataclass(frozen=True)
class Length:
    """How long the completion is, or how near to a wanted length."""

    name: ClassVar[str] = "length"
    unit: Literal["tokens", "words"] = "tokens"
    """The unit that is counted; end-of-sequence is a token."""
    target: int | None = None
    """Without one the reward is the count, with one it is minus the distance to it."""

    def __call__(self, completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        """The count, or minus its distance to the target."""
        counted: Sequence[Sequence[Any]] = completion_ids if self.unit == "tokens" else [c.split() for c in completions]
        counts = [len(one) for one in counted]
        return [float(n) if self.target is None else -float(abs(n - self.target)) for n in counts]


@dataclass(frozen=True)
class Contains:
    """1 where the completion contains one of the texts, else 0."""

    name: ClassVar[str] = "contains"
    texts: tuple[str, ...]
    """The texts to find."""
    ignore_case: bool = True
    """Take capitals and small letters as the same."""

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        """1.0 or 0.0 for each completion."""
        wanted = [t.casefold() for t in self.texts] if self.ignore_case else self.texts
        searched = [c.casefold() for c in completions] if self.ignore_case else completions
        return [float(any(text in completion for text in wanted)) for completion in searched]


@dataclass(frozen=True)
class Regex:
    """1 where the pattern is found in the completion, else 0."""

    name: ClassVar[str] = "regex"
    pattern: re.Pattern[str]
    """A compiled regular expression."""
    whole: bool = False
    """The pattern has to match the completion from end to end."""

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        """1.0 or 0.0 for each completion."""
        find = self.pattern.fullmatch if self.whole else self.pattern.search
        return [float(find(completion) is not None) for completion in completions]


def length(unit: Literal["tokens", "words"] = "tokens", target: int | None = None) -> AnyReward:
    """Length of the completion in tokens or words, or minus the distance to a target."""
    if unit not in ("tokens", "words"):
        raise ConfigError('reward "length"', [f'unit is {unit!r}, expected "tokens" or "words"'])
    if target is not None and (isinstance(target, bool) or not isinstance(target, int) or target < 0):
        raise ConfigError('reward "length"', [f"target is {target!r}, expected a whole number from 0"])
    return Length(unit, target)


def contains(text: str | Sequence[str], ignore_case: bool = True) -> AnyReward:
    """1 where the completion contains the text, or any of several texts."""
    texts = (text,) if isinstance(text, str) else tuple(text)
    if not texts or not all(isinstance(t, str) and t for t in texts):
        raise ConfigError('reward "contains"', [f"text is {text!r}, expected a text or several, none of them empty"])
    return Contains(texts, ignore_case)


def regex(pattern: str, whole: bool = False, ignore_case: bool = False) -> AnyReward:
    """1 where a regular expression is found in the completion (``whole``: matches all of it)."""
    try:
        return Regex(re.compile(pattern, re.IGNORECASE if ignore_case else 0), whole)
    except re.error as error:
        raise ConfigError('reward "regex"', [f"pattern {pattern!r} is not a regular expression: {error}"]) from None
