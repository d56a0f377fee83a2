"""Features of frozen models kept in a file, so that a second training, or one that was cut short, need not compute them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bakeoff.envs.rewards.answer_pooling import AnswerIds, Pooling
from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier
from bakeoff.errors import UserError

_FORMAT = "bakeoff pair features 1"


class FeatureCache:
    """Feature differences by pair; without a path it keeps nothing between runs."""

    def __init__(self, path: Path | None, model: SequenceClassifier, pooling: Pooling) -> None:
        """Read what an earlier run left.

        Args:
            path: a safetensors file of this class's making, or a new one.
            model: whose features; another model's are never taken for them.
            pooling: where the score is read.

        Raises:
            UserError: a file that is something else.
        """
        self._path, self._rows = path, dict[str, Tensor]()
        if path is None:
            return
        digest = hashlib.sha256(json.dumps([pooling, model.pad_id]).encode())
        for name, weight in model.module.base_model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self._model = digest.hexdigest()
        if path.exists():
            self._read(path)

    def key(self, pair: tuple[AnswerIds, AnswerIds]) -> str:
        """What a pair's features are kept under."""
        content = json.dumps([[answer.ids, answer.start] for answer in pair])
        return hashlib.sha256(content.encode()).hexdigest()

    def get(self, keys: Sequence[str]) -> list[Tensor | None]:
        """What is known of some pairs."""
        return [self._rows.get(key) for key in keys]

    def put(self, key: str, features_D: Tensor) -> None:
        """Keep a pair's features until :meth:`save`."""
        self._rows[key] = features_D

    def save(self) -> None:
        """Write all of them.

        Raises:
            UserError: the file cannot be written.
        """
        if self._path is None or not self._rows:
            return
        table = {"features": torch.stack(list(self._rows.values()))}
        fresh = self._path.with_name(f".{self._path.name}.new")
        notes = {"format": _FORMAT, "model": self._model, "keys": " ".join(self._rows)}
        try:
            save_file(table, fresh, metadata=notes)
            fresh.replace(self._path)
        except (OSError, SafetensorError) as error:
            fresh.unlink(missing_ok=True)
            raise UserError(f"feature cache {self._path} cannot be written: {' '.join(str(error).split())}") from error

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                notes, table = file.metadata() or {}, file.get_tensor("features")
        except (OSError, SafetensorError) as error:
            raise UserError(f"feature cache {path} cannot be read ({error}); delete it or name another file") from error
        if notes.get("format") != _FORMAT:
            raise UserError(f"{path} is no feature cache; name another file")
        if notes["model"] == self._model:  # another model's features are of no use, and go
            self._rows = dict(zip(notes["keys"].split(), table, strict=True))
