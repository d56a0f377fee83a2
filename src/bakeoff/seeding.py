"""Seeds that depend on names, never on the order in which things happen to run."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a base seed and a path of names: the same on every machine and in every process."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded by :func:`derive_seed`; draws move to other devices afterwards, so all devices agree."""
    return torch.Generator(device="cpu").manual_seed(derive_seed(seed, *names))
