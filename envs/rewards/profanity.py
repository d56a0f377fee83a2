"""The reward ``profanity``: how sure a small classifier is that a text is clean (extra ``profanity``).

The package alt-profanity-check is a linear model on word counts; it unpickles its own two files when it is first used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from bakeoff.envs.rewards.call import Reward
from bakeoff.errors import UserError


@dataclass(frozen=True)
class Profanity:
    """Minus the probability that the text is profane, from -1 (profane) to 0 (clean)."""

    name: ClassVar[str] = "profanity"
    with_prompt: bool = False
    """Judge prompt and completion as one text."""

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        """Minus the probability for each completion."""
        texts = [p + c for p, c in zip(prompts, completions, strict=True)] if self.with_prompt else list(completions)
        return [-float(probability) for probability in _judge()(texts)]


def profanity(with_prompt: bool = False) -> Reward:
    """Minus the probability that the completion is profane."""
    _judge()
    return Profanity(with_prompt)


@functools.cache
def _judge() -> Callable[[list[str]], Any]:
    try:
        from profanity_check import predict_prob
    except ImportError as error:
        raise UserError(
            'reward "profanity" needs the package alt-profanity-check; `pip install "bakeoff[profanity]"` brings it'
        ) from error
    judge: Callable[[list[str]], Any] = predict_prob
    return judge
