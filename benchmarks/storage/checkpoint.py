"""Nested state to two files and back: numbers and structure as JSON, tensors and arrays as safetensors. No pickle.

What comes back equals what went in, bit for bit: tuples stay tuples, integer keys integers, arrays keep their type.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bakeoff.errors import UserError

TENSORS, STATE = "tensors.safetensors", "state.json"


def save_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write nested dicts, lists and tuples of tensors, arrays, numbers, text and None into an existing folder.

    Raises:
        UserError: a value that cannot be stored without pickle; the message names its place.
    """
    packer = _Packer()
    tree = packer.pack(state, "state")
    save_file(packer.tensors, folder / TENSORS)
    (folder / STATE).write_text(json.dumps(tree, allow_nan=False), encoding="utf-8")


def load_state(folder: Path) -> Any:
    """The inverse of :func:`save_state`; tensors are on the CPU."""
    tree = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return _unpack(tree, load_file(folder / TENSORS))


class _Packer:
    """Replaces what JSON lacks by tagged objects: ``{"$": tag, ...}``."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()

    def pack(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool) or type(value) in (str, int):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$": "float", "is": repr(value)}
        if isinstance(value, Tensor):
            return {"$": "tensor", "name": self._keep(value, path)}
        if isinstance(value, np.ndarray | np.generic):
            return self._pack_array(value, path)
        if isinstance(value, Mapping):
            if all(isinstance(key, str) for key in value) and "$" not in value:
                return {key: self.pack(item, f"{path}.{key}") for key, item in value.items()}
            items = [[self.pack(key, path), self.pack(item, f"{path}.{key}")] for key, item in value.items()]
            return {"$": "mapping", "items": items}
        if isinstance(value, list | tuple):
            items = [self.pack(item, f"{path}.{index}") for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"$": "tuple", "items": items}
        if isinstance(value, bytes):
            return {"$": "bytes", "base64": base64.b64encode(value).decode()}
        raise UserError(
            f"{path} is a {type(value).__name__}, which a checkpoint cannot hold; "
            "state_dict() may contain tensors, arrays, numbers, text, None, and dicts, lists and tuples of them"
        )

    def _keep(self, tensor: Tensor, path: str) -> str:
        if tensor.layout is not torch.strided:
            raise UserError(f"{path} is a sparse tensor, which a checkpoint cannot hold; store its indices and values")
        tensor = tensor.detach()
        # Tied weights come under several names: keep one copy; and the format refuses two views of one memory.
        same = (tensor.data_ptr(), tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and same in self._names:
            return self._names[same]
        kept = tensor.cpu().contiguous()
        storage = kept.untyped_storage()
        if storage.data_ptr() in self._storages or storage.nbytes() != kept.numel() * kept.element_size():
            kept = kept.clone()
        self._storages.add(kept.untyped_storage().data_ptr())
        name = self._names[same] = f"{len(self.tensors):05d}"
        self.tensors[name] = kept
        return name

    def _pack_array(self, value: np.ndarray[Any, Any] | np.generic, path: str) -> dict[str, Any]:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise UserError(f"{path} is an array of Python objects, which a checkpoint cannot hold; use a numeric type")
        raw = torch.frombuffer(bytearray(array.tobytes()) or bytearray(1), dtype=torch.uint8)[: array.nbytes]
        scalar = not isinstance(value, np.ndarray)
        name = self._keep(raw.clone(), path)
        return {"$": "array", "name": name, "dtype": array.dtype.str, "shape": list(array.shape), "scalar": scalar}


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tag = tree.get("$")
    if tag is None:
        return {key: _unpack(item, tensors) for key, item in tree.items()}
    if tag == "tensor":
        return tensors[tree["name"]]
    if tag == "array":
        raw = tensors[tree["name"]].numpy().tobytes()
        array = np.frombuffer(raw, dtype=np.dtype(tree["dtype"])).reshape(tree["shape"]).copy()
        return array[()] if tree["scalar"] else array
    if tag == "mapping":
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in tree["items"]}
    if tag == "tuple":
        return tuple(_unpack(item, tensors) for item in tree["items"])
    if tag == "bytes":
        return base64.b64decode(tree["base64"])
    return float(tree["is"])
