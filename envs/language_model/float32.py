"""A half-precision trunk that computes in float32 for a while, one part of it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def computing_in_float32(trunk: Any) -> Iterator[None]:
    """Each block, and each other part of the trunk, gets float32 copies of its weights while its forward pass runs.

    The memory is that of one part, and afterwards the weights are the tensors that they were, bit for bit.
    """
    kept: list[list[tuple[Tensor, Tensor]]] = []

    def widen(module: nn.Module, *_: Any) -> None:
        own = _tensors(module)
        kept.append([(tensor, tensor.data) for tensor in own])
        for tensor in own:
            tensor.data = tensor.data.float()

    def restore(*_: Any) -> None:
        for tensor, data in kept.pop():
            tensor.data = data

    handles = []
    for part in _parts(trunk):
        handles.append(part.register_forward_pre_hook(widen))
        handles.append(part.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parts(trunk: Any) -> Iterator[nn.Module]:
    for child in trunk.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield child


def _tensors(module: nn.Module) -> list[Tensor]:
    """Weights and buffers of less than float32, each once."""
    return [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and t.dtype.itemsize < 4]
