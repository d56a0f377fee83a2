"""Rewards made of rewards: sums, limits, scales and a price on length.

Each hands on what its parts gave, so that a report can show which of them was optimized
(see :class:`bakeoff.envs.rewards.call.RewardResult`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bakeoff.envs.rewards.call import RewardResult, Scored, call_reward
from bakeoff.envs.rewards.resolve import AnyReward, Reward, make_reward
from bakeoff.errors import ConfigError

RewardSpec = str | Mapping[str, Any] | AnyReward
"""A registered name, a mapping of a name and settings, or a callable."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """A reward inside another."""

    name: str
    reward: AnyReward

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Any]) -> Scored:
        return call_reward(self.reward, self.name, prompts, completions, columns)

    def parts_of(self, found: Scored) -> dict[str, FloatArray]:
        """Its own parts where it has some, else itself."""
        return dict(found.parts) or {self.name: found.values}


@dataclass(frozen=True)
class Weighted:
    """A sum of rewards, each times its weight."""

    parts: tuple[tuple[_Part, float], ...]

    @property
    def name(self) -> str:
        """Such as ``weighted(vader, length)``."""
        return f"weighted({', '.join(part.name for part, _ in self.parts)})"

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> RewardResult:
        """The sum for each completion; its parts are the rewards before their weights."""
        total = np.zeros(len(completions))
        parts: dict[str, FloatArray] = {}
        for part, weight in self.parts:
            found = part(prompts, completions, columns)
            total += weight * found.values
            for name, values in part.parts_of(found).items():
                parts[_free_name(name, parts)] = values
        return RewardResult(total, parts)


@dataclass(frozen=True)
class Changed:
    """A reward made of another one."""

    kind: str
    part: _Part
    factor: float = 1.0
    shift: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    @property
    def name(self) -> str:
        """Such as ``clip(vader)``."""
        return f"{self.kind}({self.part.name})"

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> RewardResult:
        """The changed reward of each completion; its parts are those of the reward before."""
        found = self.part(prompts, completions, columns)
        values = np.clip((found.values + self.shift) * self.factor, self.low, self.high)
        return RewardResult(values, self.part.parts_of(found))


@dataclass(frozen=True)
class LengthPenalized:
    """A reward less a price for each token or word beyond some that are free."""

    part: _Part
    price: float
    free: int
    unit: Literal["tokens", "words"]

    @property
    def name(self) -> str:
        """Such as ``penalize_length(vader)``."""
        return f"penalize_length({self.part.name})"

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any
    ) -> RewardResult:
        """The reward less the price of each completion; the price is a part, negative."""
        found = self.part(prompts, completions, {"completion_ids": completion_ids, **columns})
        counted: Sequence[Sequence[Any]] = completion_ids if self.unit == "tokens" else [c.split() for c in completions]
        beyond = np.array([max(0, len(one) - self.free) for one in counted], dtype=np.float64)
        parts = self.part.parts_of(found)
        penalty = -self.price * beyond
        return RewardResult(found.values + penalty, {**parts, _free_name("length_penalty", parts): penalty})


def weighted(rewards: Sequence[Mapping[str, Any] | tuple[RewardSpec, float]]) -> Reward:
    """A weighted sum.

    Args:
        rewards: mappings of ``reward`` (a name, a mapping or a callable) and ``weight`` (1 by default), or pairs of them.

    Raises:
        ConfigError: no rewards, or something else among them.
    """
    problems, parts = [], []
    if isinstance(rewards, str | Mapping) or not rewards:
        raise ConfigError('reward "weighted"', ["rewards is empty or no list; give {reward: NAME, weight: X} for each"])
    for number, entry in enumerate(rewards, 1):
        if isinstance(entry, Mapping):
            spec, weight = entry.get("reward"), entry.get("weight", 1.0)
            unknown = sorted(set(entry) - {"reward", "weight"})
        else:
            spec, weight, unknown = (
                (*entry, []) if isinstance(entry, tuple | list) and len(entry) == 2 else (None, 1.0, [])
            )
        if spec is None or unknown:
            problems.append(f"entry {number} is {entry!r}, expected {{reward: NAME, weight: X}}")
        elif not _is_number(weight):
            problems.append(f"the weight of entry {number} is {weight!r}, expected a finite number")
        else:
            parts.append((_part(spec), float(weight)))
    if problems:
        raise ConfigError('reward "weighted"', problems)
    return Weighted(tuple(parts))


def clip(reward: RewardSpec, low: float | None = None, high: float | None = None) -> Reward:
    """A reward that is cut off below ``low`` and above ``high``."""
    problems = [
        f"{n} is {v!r}, expected a finite number"
        for n, v in (("low", low), ("high", high))
        if v is not None and not _is_number(v)
    ]
    if low is None and high is None:
        problems.append("give low, high or both")
    if not problems and low is not None and high is not None and not low < high:
        problems.append(f"low ({low}) is not below high ({high})")
    if problems:
        raise ConfigError('reward "clip"', problems)
    return Changed(
        "clip",
        _part(reward),
        low=-math.inf if low is None else float(low),
        high=math.inf if high is None else float(high),
    )


def normalize(reward: RewardSpec, mean: float, std: float) -> Reward:
    """(reward - mean) / std, with numbers that you give: ones that move with the policy would change what is optimized."""
    if not _is_number(mean) or not _is_number(std) or not std > 0:
        raise ConfigError('reward "normalize"', [f"mean is {mean!r} and std {std!r}, expected numbers, std above 0"])
    return Changed("normalize", _part(reward), factor=1 / float(std), shift=-float(mean))


def penalize_length(
    reward: RewardSpec, price: float, free: int = 0, unit: Literal["tokens", "words"] = "tokens"
) -> AnyReward:
    """A reward less ``price`` for each token (or word) beyond the first ``free``."""
    problems = []
    if not _is_number(price) or price < 0:
        problems.append(f"price is {price!r}, expected a number from 0")
    if isinstance(free, bool) or not isinstance(free, int) or free < 0:
        problems.append(f"free is {free!r}, expected a whole number from 0")
    if unit not in ("tokens", "words"):
        problems.append(f'unit is {unit!r}, expected "tokens" or "words"')
    if problems:
        raise ConfigError('reward "penalize_length"', problems)
    return LengthPenalized(_part(reward), float(price), free, unit)


def _part(spec: RewardSpec) -> _Part:
    name, reward = make_reward(spec)
    return _Part(str(getattr(reward, "name", name)), reward)


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
