"""Rewards that come with the toolkit, and how a name in a suite becomes one.

A reward is any callable ``f(prompts, completions, **columns) -> list[float]``, TRL's signature (see
:class:`bakeoff.envs.score.Reward`). The factories below make the built-in ones; a plugin registers its own factory in
the entry-point group ``bakeoff.rewards``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from bakeoff import registry
from bakeoff.envs.score import AnyReward, Reward, reward_name, score
from bakeoff.envs.settings import call_with_settings
from bakeoff.errors import ConfigError, UserError

__all__ = ["AnyReward", "Reward", "contains", "length", "make_reward", "regex", "reward_name", "score", "vader"]


@dataclass(frozen=True)
class Vader:
    """Sentiment of the text by VADER's compound score, from -1 to 1 (Hutto and Gilbert 2014)."""

    name: ClassVar[str] = "vader"
    with_prompt: bool = True
    """Score prompt and completion as one text; the prompt opens the sentence that the completion ends."""

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """The compound score of each text."""
        analyzer = _vader_analyzer()
        texts = [p + c for p, c in zip(prompts, completions, strict=True)] if self.with_prompt else completions
        return [float(analyzer.polarity_scores(text)["compound"]) for text in texts]


@functools.cache
def _vader_analyzer() -> Any:
    """The lexicon is read once in a process."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@dataclass(frozen=True)
class Length:
    """How long the completion is, or how near to a wanted length."""

    name: ClassVar[str] = "length"
    unit: Literal["tokens", "words"] = "tokens"
    """What is counted; end-of-sequence is a token."""
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
    """What is looked for."""
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


def vader(with_prompt: bool = True) -> Reward:
    """VADER's compound sentiment, of prompt and completion together or of the completion alone."""
    return Vader(with_prompt)


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


def make_reward(spec: str | Mapping[str, Any] | AnyReward) -> tuple[str, AnyReward]:
    """A reward and its name from what a suite or a caller gives.

    Args:
        spec: a registered name (``"vader"``), a mapping of a name and the factory's settings (``{"name": "length",
            "unit": "words"}``), a function of the user's as ``"package.module:function"`` or
            ``"path/to/file.py:function"``, or a callable, which is taken as it is.

    Raises:
        NotFoundError: no reward of that name.
        UserError: a setting that the factory does not take, or a function that cannot be imported.
    """
    if callable(spec):
        return reward_name(spec), spec
    settings: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        settings = dict(spec)
        name = settings.pop("name", None)
    else:
        name = spec
    if not isinstance(name, str) or not name:
        raise UserError(f'reward {spec!r} has no name; write "vader" or {{name: vader, ...}}')
    if ":" in name:
        if settings:
            raise UserError(f'reward "{name}" is a function and takes no settings; leave out {", ".join(settings)}')
        return name.rpartition(":")[2], _import_function(name)
    reward: AnyReward = call_with_settings(registry.rewards.load(name), f'reward "{name}"', settings)
    return name, reward


def _import_function(path: str) -> AnyReward:
    where, _, attribute = path.rpartition(":")
    try:
        module = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # the user's module may raise anything at import
        raise UserError(f'reward "{path}": {where} cannot be imported: {type(error).__name__}: {error}') from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f'reward "{path}": {where} has no function "{attribute}"')
    found: AnyReward = function
    return found


def _load_file(path: Path) -> Any:
    name = f"bakeoff_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in the file look their module up
    spec.loader.exec_module(module)
    return module
