"""Seeds that depend on names, never on the order of execution, and the global random generators of some libraries.

Our own code draws from generators that are passed in. Code that wraps a library with global draws (Python's, NumPy's or
PyTorch's generators) keeps them apart with :class:`OwnRandomness`, so that they repeat and change no other draw.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a base seed and a path of names: the same on every machine and in every process."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded by :func:`derive_seed`; draws move to other devices afterwards, so all devices agree."""
    return torch.Generator(device="cpu").manual_seed(derive_seed(seed, *names))


@contextmanager
def untouched_global_randomness() -> Iterator[None]:
    """Restore the global random generators afterwards, so that draws inside leave no trace."""
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
    """Restore what :func:`global_randomness` returned."""
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
    """A private sequence of the global generators: draws in ``with own:`` depend on its seed alone and leave the global
    state unchanged."""

    def __init__(self, seed: int) -> None:
        """Start the sequence."""
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
        """The position in the sequence."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._state = dict(state)
