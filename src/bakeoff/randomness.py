"""The global random generators of Python, NumPy and PyTorch, which some libraries draw from.

Our own code draws from generators that are passed in. What wraps such a library keeps its draws apart with
:class:`OwnRandomness`, so that they repeat and disturb nobody else's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def untouched_global_randomness() -> Iterator[None]:
    """Put the global random generators back as they were, whatever is drawn inside."""
    before = global_randomness()
    try:
        yield
    finally:
        restore_global_randomness(before)


def global_randomness() -> dict[str, Any]:
    """The state of Python's, NumPy's and PyTorch's global generators."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=True),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_global_randomness(state: Mapping[str, Any]) -> None:
    """Take up what :func:`global_randomness` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_global_randomness(seed: int) -> None:
    """Seed the global generators, so that a library that uses them repeats."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class OwnRandomness:
    """A run of the global generators that belongs to one owner: what is drawn in ``with own:`` depends on its seed alone,
    and leaves the generators outside as they were."""

    def __init__(self, seed: int) -> None:
        """Start the run."""
        with untouched_global_randomness():
            seed_global_randomness(seed)
            self._state = global_randomness()

    def __enter__(self) -> None:
        self._outside = global_randomness()
        restore_global_randomness(self._state)

    def __exit__(self, *exception: object) -> None:
        self._state = global_randomness()
        restore_global_randomness(self._outside)

    def state_dict(self) -> dict[str, Any]:
        """Where the run is."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._state = dict(state)
