"""The meter, which counts what a contestant spends, and the budget, which limits it.

The environment counts generated tokens and reward queries, the policy's module counts trained tokens, the runner counts
seconds. No algorithm calls these itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from bakeoff.errors import ConfigError
from bakeoff.names import LIMITS, instead_of


@dataclass
class Meter:
    """Running totals of one cell."""

    generated_tokens: int = 0
    """Tokens that the policy or a critic chose, end-of-sequence included, padding not; a judgment that is read from a critic's
    probabilities is one token. What is read on the way, prompts and questions, is in the seconds only."""
    reward_queries: int = 0
    """Completions that the optimized reward has scored."""
    trained_tokens: int = 0
    """Real tokens that the trained model read with gradients enabled, each completion with its prompt and to its last token, once
    for each pass over it and each network that learns. A prompt counts for every completion of it, whether or not the
    implementation reads it once for several: the figure depends on what was learned from, not on how it was computed."""
    seconds: float = 0.0
    """Wall-clock seconds of collecting and learning; evaluation is not in it."""
    paused: bool = field(default=False, repr=False)
    """True while an evaluation runs: nothing is counted then."""

    def add_generated(self, tokens: int) -> None:
        """Count tokens that were played."""
        if not self.paused:
            self.generated_tokens += int(tokens)

    def add_queries(self, completions: int) -> None:
        """Count completions that were scored."""
        if not self.paused:
            self.reward_queries += int(completions)

    def add_trained(self, tokens: int) -> None:
        """Count tokens of a forward pass whose gradients are wanted."""
        if not self.paused:
            self.trained_tokens += int(tokens)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Count the seconds spent inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count nothing inside; for evaluation."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def snapshot(self) -> dict[str, float]:
        """The four totals under their public names."""
        return {name: getattr(self, name) for name in METERS}

    def restore(self, snapshot: Mapping[str, float]) -> None:
        """Set the totals to what :meth:`snapshot` returned."""
        for name in METERS:
            setattr(self, name, snapshot[name] if name == "seconds" else int(snapshot[name]))


METERS = ("generated_tokens", "reward_queries", "trained_tokens", "seconds")
"""The public names of the meter's totals, in the order of the store's rows."""


@dataclass(frozen=True)
class Budget:
    """A limit on any of the meter's totals; ``None`` means no limit."""

    generated_tokens: int | None = None
    """Limit on generated tokens."""
    reward_queries: int | None = None
    """Limit on scored completions."""
    trained_tokens: int | None = None
    """Limit on trained tokens."""
    seconds: float | None = None
    """Limit on wall-clock seconds of learning; runs under it do not repeat exactly."""

    def __post_init__(self) -> None:
        problems = [
            f"budget.{name} is {value!r}, expected a number above 0"
            for name, value in self.limits().items()
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0
        ]
        if problems:
            raise ConfigError("budget", problems)

    @classmethod
    def of(cls, limits: Mapping[str, float]) -> Budget:
        """A budget from a mapping; an unknown name is a :class:`~bakeoff.errors.ConfigError` with a suggestion."""
        unknown = [f'unknown limit "{name}"{instead_of(name, METERS, LIMITS)}' for name in limits if name not in METERS]
        if unknown:
            raise ConfigError("budget", [*unknown, f"limits are {', '.join(METERS)}"])
        return cls(**limits)  # type: ignore[arg-type]

    def limits(self) -> dict[str, float]:
        """The limits that are set."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def exhausted(self, meter: Meter) -> bool:
        """True once any limit is reached."""
        return any(getattr(meter, name) >= limit for name, limit in self.limits().items())

    def planned_updates(self, batch_size: int, max_new_tokens: int) -> int | None:
        """How many updates there are, at least, where each plays one batch; None without a limit that says so.

        The fewest over the limits on reward queries (one for each completion) and on generated tokens (at most
        ``max_new_tokens`` for each completion). What an update trains, and how long it takes, cannot be known before.
        """
        costs = {"reward_queries": batch_size, "generated_tokens": batch_size * max_new_tokens}
        counts = [math.ceil(limit / costs[name]) for name, limit in self.limits().items() if name in costs]
        return min(counts, default=None)

    def progress(self, meter: Meter) -> float:
        """The share that is spent, from 0 to 1: the largest over all limits but seconds.

        Schedules follow it. Seconds are left out, since a schedule that follows the clock cannot repeat; a budget of
        seconds alone gives 0 throughout.
        """
        shares = [getattr(meter, name) / limit for name, limit in self.limits().items() if name != "seconds"]
        return min(1.0, max(shares, default=0.0))
