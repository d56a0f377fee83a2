"""Gymnasium spaces of the token environments: a vocabulary with forbidden tokens, and padded sequences."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector.utils import batch_space


class TokenSpace(spaces.Discrete[np.int64]):
    """The tokens of a vocabulary that may be played: ``Discrete(V)`` that never samples a forbidden one."""

    def __init__(self, allowed_V: npt.NDArray[np.bool_], seed: int | np.random.Generator | None = None) -> None:
        """Make the space; ``allowed_V`` is True on tokens that may be played, at least one."""
        super().__init__(len(allowed_V), seed=seed)
        self.allowed_V = allowed_V
        self._ids = np.flatnonzero(allowed_V)

    def sample(self, mask: Any = None, probability: Any = None) -> np.int64:
        """A token, uniform over the allowed ones unless a mask or probabilities are given."""
        if mask is not None or probability is not None:
            return super().sample(mask, probability)
        return np.int64(self._ids[self.np_random.integers(len(self._ids))])

    def contains(self, x: Any) -> bool:
        """True for the id of an allowed token."""
        return super().contains(x) and bool(self.allowed_V[int(x)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenSpace) and np.array_equal(self.allowed_V, other.allowed_V)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TokenSpace({self.n}, {len(self._ids)} allowed)"


class TokensSpace(spaces.MultiDiscrete[np.int64]):
    """One token for each of B sub-environments."""

    def __init__(
        self, allowed_V: npt.NDArray[np.bool_], num_envs: int, seed: int | np.random.Generator | None = None
    ) -> None:
        """Make the space of B = ``num_envs`` tokens, each allowed by ``allowed_V``."""
        super().__init__(np.full(num_envs, len(allowed_V), dtype=np.int64), seed=seed)
        self.allowed_V = allowed_V
        self._ids = np.flatnonzero(allowed_V)

    def sample(self, mask: Any = None, probability: Any = None) -> npt.NDArray[np.int64]:
        """Tokens, each uniform over the allowed ones unless masks or probabilities are given, shape (B,)."""
        if mask is not None or probability is not None:
            sampled: npt.NDArray[np.int64] = super().sample(mask, probability)
            return sampled
        chosen: npt.NDArray[np.int64] = self._ids[self.np_random.integers(len(self._ids), size=self.shape)]
        return chosen

    def contains(self, x: Any) -> bool:
        """True for B ids of allowed tokens."""
        return super().contains(x) and bool(self.allowed_V[np.asarray(x)].all())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokensSpace)
            and self.shape == other.shape
            and np.array_equal(self.allowed_V, other.allowed_V)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TokensSpace({self.shape[0]} x {len(self.allowed_V)}, {len(self._ids)} allowed)"


@batch_space.register(TokenSpace)
def _batch_tokens(space: TokenSpace, n: int = 1) -> TokensSpace:
    """So that Gymnasium's own vector environments keep the forbidden tokens forbidden."""
    return TokensSpace(space.allowed_V, n, seed=deepcopy(space.np_random))


def sequence_space(length: int, largest_token: int) -> spaces.Dict:
    """Prompt and completion side by side: ``tokens`` and ``mask`` (1 on real tokens), each of shape (S,)."""
    return spaces.Dict(
        {
            "tokens": spaces.Box(0, largest_token, (length,), np.int64),
            "mask": spaces.Box(0, 1, (length,), np.int8),
        }
    )
