"""Preference pairs: two answers to a prompt, and which of them was preferred."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    """``user``, ``assistant``, ``system`` or another role of the chat template."""
    content: str
    """The text of the message."""

    def as_dict(self) -> dict[str, str]:
        """The message as chat templates take it."""
        return {"role": self.role, "content": self.content}


Prompt = str | tuple[Message, ...]
"""A text that an answer continues, or a conversation that it answers."""


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt."""

    prompt: Prompt
    """The prompt: a text, or a conversation."""
    chosen: str
    """The preferred answer; it starts where a text prompt ends, its leading space included."""
    rejected: str
    """The other answer."""
    margin: float | None = None
    """By how much it was liked better, where that is known."""

    def as_row(self) -> dict[str, Any]:
        """The pair as a row of TRL's formats, with an explicit prompt."""
        row: dict[str, Any] = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        if not isinstance(self.prompt, str):
            row["prompt"] = [asdict(message) for message in self.prompt]
            for side in ("chosen", "rejected"):
                row[side] = [{"role": "assistant", "content": row[side]}]
        return row if self.margin is None else {**row, "margin": self.margin}


@dataclass(frozen=True)
class Problem:
    """One kind of unusable row."""

    count: int
    """The number of rows that have it."""
    first: str
    """The place of the first one, and its content."""


class Pairs(Sequence[PreferencePair]):
    """Pairs, and what was passed over on the way to them."""

    def __init__(
        self, pairs: Iterable[PreferencePair], source: str = "pairs", problems: Mapping[str, Problem] | None = None
    ) -> None:
        """Hold them.

        Args:
            pairs: the usable ones.
            source: how messages call where they come from.
            problems: the unusable rows by kind.
        """
        self._pairs = tuple(pairs)
        self.source, self.problems = source, dict(problems or {})

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> PreferencePair | Pairs:
        return Pairs(self._pairs[index], self.source) if isinstance(index, slice) else self._pairs[index]

    def __iter__(self) -> Iterator[PreferencePair]:
        return iter(self._pairs)

    @property
    def skipped(self) -> int:
        """The number of rows that were skipped."""
        return sum(problem.count for problem in self.problems.values())

    def summary(self) -> str:
        """One line: how many pairs, and what was passed over, with the first of each kind."""
        line = f"{self.source}: {len(self):,} pairs"
        return f"{line}; {self.skipped} rows passed over: {kinds(self.problems)}" if self.problems else line

    def save(self, path: str | Path) -> None:
        """Write them as JSON lines in TRL's format, compressed where the name ends in ``.gz``."""
        path = Path(path)
        text = "".join(json.dumps(pair.as_row(), ensure_ascii=True) + "\n" for pair in self)
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())


def kinds(problems: Mapping[str, Problem]) -> str:
    """Each kind of problem, how often, and where the first is."""
    return "; ".join(f"{kind} {problem.count} (first {problem.first})" for kind, problem in problems.items())
