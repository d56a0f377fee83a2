"""Which attributes of an object are data that a checkpoint holds, and which are collections that it would lose."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping, MutableSequence, MutableSet
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def is_plain(value: Any) -> bool:
    """Whether it is numbers, text, tensors or arrays, or lists, tuples and dicts of them. Weights are not: they are the model's."""
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        return True
    if isinstance(value, Tensor):
        return not (value.requires_grad or isinstance(value, nn.Parameter)) and value.layout is torch.strided
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return type(value) is dict and all(map(is_plain, [*value, *value.values()]))


def unserializable(value: Any) -> str | None:
    """What a collection that can change, and is not plain, holds; None where it is none, or of weights, modules or functions."""
    if not isinstance(value, MutableSequence | MutableSet | MutableMapping | deque) or not len(value):
        return None
    members = list(value.values()) if isinstance(value, Mapping) else list(value)
    if all(isinstance(member, Tensor | nn.Module) or callable(member) for member in members):
        return None
    kinds = sorted({type(member).__name__ for member in members})
    plain = all(map(is_plain, members))
    return f"{', '.join(kinds)} in a {type(value).__name__}" if plain else ", ".join(kinds)


def restore_like(saved: Any, value: Any, device: torch.device) -> Any:
    """What was saved; a tensor goes where the attribute's was, or to the model's device where there was none. Tensors in
    collections stay on the CPU."""
    if isinstance(saved, Tensor):
        return saved.to(value.device if isinstance(value, Tensor) else device)
    return saved
