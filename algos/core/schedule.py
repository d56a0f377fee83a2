"""The learning rate of each gradient step: it falls with the share of the budget that is spent, and rises over a warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.errors import UserError


class LearningRate:
    """The rate of an update's steps is fixed when the update begins, before its batch is paid for.

    So update k of K has the share 1 - (k - 1)/K of the rate at the start, and the last one still learns.
    """

    def __init__(self, config: AlgorithmConfig, initial_rate: float) -> None:
        """Args:
        config: gives the schedule and the warm-up.
        initial_rate: the rate at the start, once the warm-up is over.
        """
        self.initial_rate = initial_rate
        self._linear, self._warmup_steps = config.learning_rate_schedule == "linear", config.warmup_steps
        self._rate: float | None = None
        self._steps = 0

    def start_update(self, progress: float) -> None:
        """Fix the rate of the steps that follow.

        Args:
            progress: share of the budget, or of the passes over given data, that is spent before this update; 0 to 1.
        """
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
        return self._rate * min(1.0, self._steps / (self._warmup_steps + 1))

    def state_dict(self) -> dict[str, Any]:
        """Steps so far; the rate is fixed anew by the update that follows."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._steps = int(state["steps"])
