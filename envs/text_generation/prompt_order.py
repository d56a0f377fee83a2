"""In which order prompts are drawn: shuffled anew each epoch, every prompt once per epoch.

Two arrangements for a batch. *Of their own*: sub-environment i has an order seeded with seed + i, so a vector
environment plays what as many single ones would, as Gymnasium's SyncVectorEnv does. *Shared*: one order for the batch,
so that no prompt comes a second time before all have come once, in any sub-environment; algorithms use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding

from bakeoff.errors import UserError


class PromptOrder:
    """An endless stream of prompt indices, drawn without replacement within an epoch."""

    def __init__(self, size: int, seed: int | None = None) -> None:
        """Start an order over ``size`` prompts; without a seed the operating system's entropy decides."""
        self.size = size
        self.reseed(seed)

    def reseed(self, seed: int | None) -> None:
        """Start afresh, the generator as Gymnasium makes it from a seed."""
        self.generator, self.seed = seeding.np_random(seed)
        self._epoch: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._position = 0

    def draw(self, count: int) -> npt.NDArray[np.int64]:
        """The next ``count`` indices, shape (count,); where an epoch ends the next one begins."""
        drawn = np.empty(count, np.int64)
        filled = 0
        while filled < count:
            if self._position == len(self._epoch):
                self._epoch, self._position = self.generator.permutation(self.size).astype(np.int64), 0
            taken = self._epoch[self._position : self._position + count - filled]
            drawn[filled : filled + len(taken)] = taken
            filled, self._position = filled + len(taken), self._position + len(taken)
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """The rest of the epoch and the generator, as JSON values."""
        return {
            "size": self.size,
            "seed": self.seed,
            "rest": self._epoch[self._position :].tolist(),
            "generator": self.generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was called.

        Raises:
            UserError: the state belongs to another number of prompts.
        """
        if state["size"] != self.size:
            raise UserError(
                f"the saved prompt order is over {state['size']} prompts, this environment has {self.size}; "
                "resume with the same prompt files"
            )
        self.generator.bit_generator.state = state["generator"]
        self.seed = state["seed"]
        self._epoch, self._position = np.array(state["rest"], np.int64), 0


class PromptOrders:
    """The prompt orders of a batch: one for each sub-environment, or one for all."""

    def __init__(self, size: int, num_envs: int, *, shared: bool) -> None:
        """Orders over ``size`` prompts for ``num_envs`` sub-environments, unseeded."""
        self.shared, self.num_envs = shared, num_envs
        self._orders = [PromptOrder(size) for _ in range(1 if shared else num_envs)]

    def of_row(self, row: int) -> PromptOrder:
        """The order that a sub-environment draws from."""
        return self._orders[0 if self.shared else row]

    def draw(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """One prompt index for each of the sub-environments."""
        if self.shared:
            return self._orders[0].draw(len(rows))
        return np.concatenate([self._orders[row].draw(1) for row in rows])

    def reseed(self, seed: int | Sequence[int | None], rows: npt.NDArray[np.intp]) -> None:
        """Restart the orders of some sub-environments.

        Each takes ``seed + row``, or its own of a list of one for each, where None leaves it as it is. A shared order
        takes ``seed``.

        Raises:
            UserError: a list of the wrong length, or any list for a shared order.
        """
        if isinstance(seed, int | np.integer):
            seeds: list[int | None] = [int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = list(seed)
            if self.shared or len(seeds) != self.num_envs:
                expected = "one number, since the prompt order is shared" if self.shared else f"{self.num_envs} numbers"
                raise UserError(f"seed is a list of {len(seeds)}, expected {expected}")
        for row in [0] if self.shared else rows:
            if seeds[row] is not None:
                self._orders[row].reseed(seeds[row])

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each order, as JSON values."""
        return [order.state_dict() for order in self._orders]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            UserError: the state is of another number of orders or prompts.
        """
        if len(state) != len(self._orders):
            raise UserError(
                f"the saved state has {len(state)} prompt orders, this environment {len(self._orders)}; "
                "resume with the same num_envs and shared_prompts"
            )
        for order, saved in zip(self._orders, state, strict=True):
            order.load_state_dict(saved)
