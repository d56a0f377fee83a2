"""Calling a reward function, and checking its values before they are used."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from bakeoff import distributed
from bakeoff.errors import BakeoffError, RewardError

LARGEST = 1e100
"""No reward may be larger in size: its square is still a number, and so are sums of squares."""
_SHOWN = 100
"""Characters of a value in a message."""


class Reward(Protocol):
    """Any callable that scores completions, with the signature that TRL's trainers use.

    It is called with keywords: ``prompts`` and ``completions`` (lists of text), ``completion_ids`` (lists of token ids,
    end-of-sequence included), ``prompt_index`` (which prompt of its split, -1 for a text of the caller's own) and the
    prompt file's columns, all lists of the same length. It gets those it names, or all when it has ``**kwargs``, and
    returns one finite number for each completion.
    """

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> Sequence[float]:
        """One number for each completion."""


AnyReward = Callable[..., Any]
"""A reward as users write it: it may take fewer arguments than :class:`Reward` offers."""


class RewardResult(list[float]):
    """The return value of a reward with parts: the total values, and each part's values by name."""

    def __init__(self, values: Iterable[float], parts: Mapping[str, Sequence[float] | npt.NDArray[np.float64]]) -> None:
        """Args:
        values: one number for each completion.
        parts: by name, one number for each completion.
        """
        super().__init__(float(value) for value in values)
        self.parts = dict(parts)


@dataclass(frozen=True)
class Scored:
    """Checked values, each array of shape (B,)."""

    values: npt.NDArray[np.float64]
    """The reward."""
    parts: Mapping[str, npt.NDArray[np.float64]]
    """The values of each part by name; empty where it has no parts."""


def reward_name(reward: AnyReward) -> str:
    """A reward's name in messages and reports: its ``name``, else its function's or class's name."""
    name = getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__
    return str(name)


def score(
    reward: AnyReward,
    name: str,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
) -> npt.NDArray[np.float64]:
    """Score completions in one call, shape (B,); see :func:`scored`."""
    return call_reward(reward, name, prompts, completions, columns).values


def call_reward(
    reward: AnyReward,
    name: str,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
) -> Scored:
    """Score completions in one call, and keep what the reward says of its parts.

    Args:
        reward: the reward.
        name: how messages call it.
        prompts: B prompts.
        completions: B completions.
        columns: further lists of B values, among them ``completion_ids`` and ``prompt_index``.

    Raises:
        RewardError: it raised, returned another number of values than B, or one of them is not a finite number of
            at most :data:`LARGEST`; the
            message names the reward and the first prompt concerned.
    """
    if not prompts:
        return Scored(np.empty(0), {})
    offered = {"prompts": list(prompts), "completions": list(completions), **{k: list(v) for k, v in columns.items()}}
    arguments = _arguments(reward, name, offered)
    process = os.getpid()
    try:
        returned = distributed.on_main(lambda: reward(**arguments))
    except BakeoffError:  # it says already what is wrong
        raise
    except (Exception, SystemExit) as error:
        raise _raised(error, name, prompts) from error
    finally:
        if os.getpid() != process:  # or there would be two workers, which write the same files
            _end_fork(name)
    values = _checked(returned, name, prompts, completions)
    if not isinstance(returned, RewardResult):
        return Scored(values, {})
    parts = returned.parts.items()
    return Scored(values, {part: _checked(v, f"{name}: {part}", prompts, completions) for part, v in parts})


def _arguments(reward: AnyReward, name: str, offered: Mapping[str, Any]) -> Mapping[str, Any]:
    """The offered arguments that the reward takes."""
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return offered
    if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
        raise RewardError(f'reward "{name}" has positional-only parameters; rewards are called with keywords')
    missing = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in offered
    ]
    if missing:
        raise RewardError(
            f'reward "{name}" reads "{missing[0]}", which is no column of the prompts; it may read {", ".join(offered)}'
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return offered
    return {p.name: offered[p.name] for p in parameters if p.name in offered}


def _checked(returned: Any, name: str, prompts: Sequence[str], completions: Sequence[str]) -> npt.NDArray[np.float64]:
    if inspect.isawaitable(returned):
        if inspect.iscoroutine(returned):
            returned.close()
        raise RewardError(f'reward "{name}" is asynchronous; wrap it in a function that waits for the answer')
    if hasattr(returned, "tolist"):  # a tensor or an array
        returned = returned.tolist()
    if not isinstance(returned, Sequence) or isinstance(returned, str):
        raise RewardError(
            f'reward "{name}" returned {type(returned).__name__}, expected a list of {len(prompts)} numbers '
            f"(first prompt {_short(prompts[0])})"
        )
    try:
        returned = list(returned)  # its length may lie
    except Exception as error:
        raise _raised(error, name, prompts) from error
    if len(returned) != len(prompts):
        raise RewardError(
            f'reward "{name}" returned {len(returned)} values for {len(prompts)} completions '
            f"(first prompt {_short(prompts[0])}); return one number for each"
        )
    values = np.empty(len(prompts))
    for row, value in enumerate(returned):
        values[row] = number = _number(value)
        if not abs(number) <= LARGEST:
            raise RewardError(
                f'reward "{name}" returned {_shown(value)} for prompt {_short(prompts[row])} '
                f"and completion {_short(completions[row])}; return one finite number for each completion, up to {LARGEST:g}"
            )
    return values


def _number(value: Any) -> float:
    """The value as a float, NaN when it is none."""
    if value is None or isinstance(value, str | bytes):
        return float("nan")
    try:
        return float(value)
    except Exception:  # whatever its __float__ raises
        return float("nan")


def _raised(error: BaseException, name: str, prompts: Sequence[str]) -> RewardError:
    """The error that says which reward raised another, and where."""
    others = f" (first of {len(prompts)} in its batch)" if len(prompts) > 1 else ""
    try:
        text = f": {_one_line(str(error))}"
    except Exception:  # its __str__ fails
        text = ""
    return RewardError(f'reward "{name}" raised {type(error).__name__}{text} on prompt {_short(prompts[0])}{others}')


def _shown(value: Any) -> str:
    """A value as text of bounded length."""
    try:
        return repr(value) if len(repr(value)) <= _SHOWN else f"{repr(value)[:_SHOWN]}..."
    except Exception:  # its __repr__ fails, or it has too many digits
        return f"a {type(value).__name__}"


def _end_fork(name: str) -> NoReturn:
    """End a process that a reward has forked, and that has come back from it."""
    line = (
        f'bakeoff: reward "{name}" forked a process that returned; it is ended: end it in the reward, with os._exit\n'
    )
    with contextlib.suppress(OSError):
        os.write(2, line.encode("utf-8", "replace"))
    os._exit(1)


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
