"""The exceptions of this toolkit.

Every message says on one line what is wrong, where, and how to fix it. Each class is also a standard type, so callers
can catch ``KeyError`` or ``ValueError`` without importing us. The command line prints a :class:`BakeoffError` as that one
line and exits with 2; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bakeoff.names import did_you_mean


class BakeoffError(Exception):
    """Anything this toolkit raises on purpose."""


class UserError(BakeoffError, ValueError):
    """Bad input: the message names the thing, the place and the fix."""


class NotFoundError(UserError, KeyError):
    """A name that is not registered; suggests the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        message = f'no {kind} "{name}"{did_you_mean(name, known)}; installed: {", ".join(known) or "none"}'
        super().__init__(message)
        self.kind, self.name, self.known = kind, name, known

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class ConfigError(UserError):
    """One or more problems in a configuration, all of them listed at once."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source, self.problems = source, list(problems)
        super().__init__(f"{source}: " + "; ".join(self.problems))


class ModelError(UserError):
    """A model or tokenizer that cannot be used as a causal language model here."""


class PromptError(UserError):
    """A prompt, or a file of prompts, that cannot be used."""


class PreferenceError(UserError):
    """Preference pairs, or a file of them, that cannot be used."""


class TrainingError(UserError):
    """A reward model that cannot be trained with these settings and pairs."""


class RewardError(BakeoffError, ValueError):
    """A reward function returned something that is not one finite number per completion."""


class EpisodeEndedError(BakeoffError, RuntimeError):
    """``step`` was called on an environment whose episode is over."""


class ActionError(UserError):
    """An action outside the vocabulary, or one that the token mask forbids."""


class RunFolderError(UserError):
    """A run folder that cannot be written, belongs to another suite, or is damaged."""
