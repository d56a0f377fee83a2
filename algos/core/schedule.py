"""The learning rate of each gradient step: it falls with the share of the budget that is spent, and rises over a warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.errors import UserError

WARMUP_SHARE = 0.1
"""The warm-up is over once this share of the planned updates, or of the budget, is spent, however many steps it is set to."""


def updates_of_passes(rows: int, epochs: int, batch_size: int, steps_per_update: int = 1) -> int:
    """How many updates it takes to pass over some rows, with at most ``batch_size`` of them in a gradient step; at least 1."""
    steps = math.ceil(epochs * rows / max(1, min(batch_size, rows)))
    return max(1, math.ceil(steps / steps_per_update))


def warmup_factor(step: int, warmup_steps: int, update: int, planned_updates: int | None, progress: float) -> float:
    """The share of the rate that a step takes, up to 1: the largest of three ways to be warm.

    step / (warmup_steps + 1); with K planned updates also update / (.1 K + 1), so that a tenth of them is the most that is
    warm-up, and one update alone is not; and progress / .1, where the number of updates is unknown.

    Args:
        step: number of the gradient step, from 1.
        warmup_steps: steps below the whole rate.
        update: number of the update that it belongs to, from 1.
        planned_updates: K, or the least that it can be; None where it is unknown.
        progress: share of the budget that was spent before this update.
    """
    by_updates = 0.0 if planned_updates is None else update / (WARMUP_SHARE * planned_updates + 1)
    return min(1.0, max(step / (warmup_steps + 1), by_updates, progress / WARMUP_SHARE))


class LearningRate:
    """The rate of an update's steps is fixed when the update begins, before its batch is paid for.

    So update k of K has the share 1 - (k - 1)/K of the rate at the start, and the last one still learns.
    """

    def __init__(self, config: AlgorithmConfig, initial_rate: float, planned_updates: int | None = None) -> None:
        """Args:
        config: gives the schedule and the warm-up.
        initial_rate: the rate at the start, once the warm-up is over.
        planned_updates: how many updates there will be, or the least that they can be; None where that is unknown.
        """
        self.initial_rate = initial_rate
        self._linear, self._warmup_steps = config.learning_rate_schedule == "linear", config.warmup_steps
        self._planned_updates = planned_updates
        self._rate: float | None = None
        self._progress = 0.0
        self._steps = self._updates = 0

    def start_update(self, progress: float) -> None:
        """Fix the rate of the steps that follow.

        Args:
            progress: share of the budget, or of the passes over given data, that is spent before this update; 0 to 1.
        """
        self._updates += 1
        self._progress = progress
        self._rate = self.initial_rate * (1 - progress if self._linear else 1.0)

    def next(self) -> float:
        """The rate of the next step; counts it.

        Raises:
            UserError: no update was started.
        """
        if self._rate is None:
            raise UserError(
                "step() without an update; call start_update(progress) first thing in update(), such as "
                "self.optimizer.start_update(self.envs.progress)"
            )
        self._steps += 1
        return self._rate * warmup_factor(
            self._steps, self._warmup_steps, self._updates, self._planned_updates, self._progress
        )

    def state_dict(self) -> dict[str, Any]:
        """Steps and updates so far; the rate is fixed anew by the update that follows."""
        return {"steps": self._steps, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._steps, self._updates = int(state["steps"]), int(state["updates"])
