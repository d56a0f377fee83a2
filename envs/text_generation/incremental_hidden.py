"""The hidden state after the newest token of B growing texts, one token per step.

Every text is kept at the right edge of one key-value cache, its newest token in the last column. So one forward pass over
one column advances all of them, and a text that restarts while others continue is read alone and replaces its row:
what stands to the left of it is masked. Columns that no text uses any more are cut off, so the cache is never wider than
the longest text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel


class IncrementalReader:
    """Reads B texts with one language model; none has begun at first."""

    def __init__(self, language_model: LanguageModel, num_rows: int) -> None:
        """Args:
        language_model: it is not changed.
        num_rows: B.
        """
        self.model, self.num_rows = language_model, num_rows
        self._cache: Any = None
        """None before the first text, and for a family whose cache is more than one table of keys and values per layer
        (sliding windows, recurrent states): such texts are read from their start in every step."""
        self._tokens_BW = torch.zeros(num_rows, 0, dtype=torch.long, device=language_model.device)
        self._mask_BW = torch.zeros(num_rows, 0, dtype=torch.bool, device=language_model.device)
        self._hidden_BD = torch.zeros(num_rows, language_model.width, device=language_model.device)

    @property
    def hidden_BD(self) -> Tensor:
        """Hidden states after each text's newest token, float32."""
        return self._hidden_BD

    @torch.no_grad()
    def restart(self, rows: npt.NDArray[np.intp], tokens_NP: npt.NDArray[Any], mask_NP: npt.NDArray[Any]) -> None:
        """Begin new texts in some rows; the others stay where they are.

        Args:
            rows: which, ascending, shape (N,); the first call begins all of them.
            tokens_NP: left-padded token ids.
            mask_NP: true on the real ones.
        """
        device = self.model.device
        first = int(mask_NP.any(0).argmax())  # columns that are padding in all of these rows
        tokens = torch.from_numpy(tokens_NP[:, first:].astype(np.int64)).to(device)
        mask = torch.from_numpy(mask_NP[:, first:].astype(bool)).to(device)
        hidden_ND, cache = self.model.prefill(tokens, mask)
        if len(rows) == self.num_rows:
            self._tokens_BW, self._mask_BW, self._hidden_BD = tokens, mask, hidden_ND.float()
            self._cache = cache if all(type(layer) is DynamicLayer for layer in cache.layers) else None
            return
        index = torch.from_numpy(rows).to(device)
        width, length = self._mask_BW.shape[1], tokens.shape[1]
        self._widen(max(0, length - width))
        self._tokens_BW[index, -length:] = tokens
        self._mask_BW[index] = False
        self._mask_BW[index, -length:] = mask
        self._hidden_BD = self._hidden_BD.index_copy(0, index, hidden_ND.float())
        for ours, new in zip(self._layers, cache.layers, strict=True) if self._cache is not None else ():
            ours.keys[index, :, -length:] = new.keys
            ours.values[index, :, -length:] = new.values
        self._narrow()

    @torch.no_grad()
    def append(self, tokens_B: npt.NDArray[Any]) -> None:
        """Add one token to every text."""
        token_B = torch.from_numpy(tokens_B.astype(np.int64)).to(self.model.device)
        position_B = self._mask_BW.sum(1)
        self._tokens_BW = torch.cat([self._tokens_BW, token_B[:, None]], 1)
        self._mask_BW = pad(self._mask_BW, (0, 1), value=True)
        if self._cache is None:
            self._hidden_BD = self.model.hidden(self._tokens_BW, self._mask_BW)[:, -1].float()
        else:
            hidden_BD = self.model.decode_step(token_B, self._mask_BW.long(), position_B, self._cache)
            self._hidden_BD = hidden_BD.float()

    def state_dict(self) -> dict[str, Any]:
        """The texts and the cache. The cache is not read anew on loading: sums would round differently, and a run resumed
        from it would not repeat."""
        state: dict[str, Any] = {"tokens": self._tokens_BW, "mask": self._mask_BW, "hidden": self._hidden_BD}
        if self._cache is not None:
            state["cache"] = {
                str(number): {"keys": layer.keys, "values": layer.values} for number, layer in enumerate(self._layers)
            }
        return {name: _cloned(value) for name, value in state.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        device = self.model.device
        self._tokens_BW, self._mask_BW = state["tokens"].to(device).clone(), state["mask"].to(device).clone()
        self._hidden_BD, self._cache = state["hidden"].to(device).clone(), None
        if "cache" in state:
            # An empty cache of the right family, then its tables.
            self._cache = self.model.prefill(self._tokens_BW[:1, -1:], torch.ones_like(self._mask_BW[:1, -1:]))[1]
            for number, layer in enumerate(self._layers):
                saved = state["cache"][str(number)]
                layer.keys, layer.values = saved["keys"].to(device).clone(), saved["values"].to(device).clone()

    @property
    def _layers(self) -> list[Any]:
        layers: list[Any] = self._cache.layers
        return layers

    def _widen(self, columns: int) -> None:
        if columns:
            self._tokens_BW, self._mask_BW = pad(self._tokens_BW, (columns, 0)), pad(self._mask_BW, (columns, 0))
            for layer in self._layers if self._cache is not None else ():
                layer.keys, layer.values = (pad(x, (0, 0, columns, 0)) for x in (layer.keys, layer.values))

    def _narrow(self) -> None:
        unused = int(self._mask_BW.any(0).int().argmax())
        if unused:
            self._tokens_BW, self._mask_BW = self._tokens_BW[:, unused:], self._mask_BW[:, unused:]
            for layer in self._layers if self._cache is not None else ():
                layer.keys, layer.values = (x[:, :, unused:].contiguous() for x in (layer.keys, layer.values))


def _cloned(value: Any) -> Any:
    return {key: _cloned(item) for key, item in value.items()} if isinstance(value, dict) else value.clone()
