"""A memory of rows of any kind (pairs, judgments) that are learned from offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor


class Rows(Protocol):
    """A batch of rows, in tensors."""

    def __len__(self) -> int:
        """How many."""

    def select(self, rows: Tensor) -> Self:
        """The named rows."""

    def on_cpu(self) -> Self:
        """What of them is kept, on the CPU."""

    def state_dict(self) -> dict[str, Any]:
        """The tensors, by name."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`state_dict`."""

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        """Several batches as one."""


R = TypeVar("R", bound=Rows)


class RowMemory(Generic[R]):
    """Rows to learn from, on the CPU: the newest ``capacity`` of those that were added."""

    def __init__(self, kind: type[R], capacity: int | None = None) -> None:
        """Without a ``capacity`` all are kept."""
        self._kind, self.capacity = kind, capacity
        self.added = 0
        self._rows: R | None = None

    def __len__(self) -> int:
        return 0 if self._rows is None else len(self._rows)

    @property
    def rows(self) -> R:
        """All that are kept, oldest first.

        Raises:
            ValueError: there are none yet.
        """
        if self._rows is None:
            raise ValueError("nothing was added to this memory yet")
        return self._rows

    def add(self, rows: R) -> None:
        """Keep more."""
        kept = rows.on_cpu() if self._rows is None else self._kind.concatenated([self._rows, rows.on_cpu()])
        if self.capacity is not None and len(kept) > self.capacity:
            kept = kept.select(torch.arange(len(kept) - self.capacity, len(kept)))
        self._rows, self.added = kept, self.added + len(rows)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of ``count`` different rows, or of all where there are no more."""
        return torch.randperm(len(self), generator=generator)[:count]

    def state_dict(self) -> dict[str, Any]:
        """The rows, and how many were ever added."""
        return {"added": self.added, "rows": {} if self._rows is None else self._rows.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.added = int(state["added"])
        self._rows = self._kind.from_state(state["rows"]) if state["rows"] else None
