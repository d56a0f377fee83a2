"""An actor on the driver's node: workers append events and copies of their cells, and the driver takes them out."""

from __future__ import annotations

from typing import Any


class EventQueue:
    """The actor itself; its methods are called by Ray, one at a time."""

    def __init__(self) -> None:
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._copies: dict[int, bytes] = {}
        self._stopping = False

    def put(self, number: int, event: str, details: dict[str, Any]) -> bool:
        """Append an event; returns whether all jobs are to stop."""
        if self._events and event == "progress" and self._events[-1][:2] == (number, event):
            self._events.pop()  # the newest replaces it
        self._events.append((number, event, details))
        return self._stopping

    def take_all(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Remove all events and return them."""
        events, self._events = self._events, []
        return events

    def keep(self, number: int, copy: bytes) -> None:
        """Keep a copy of a cell's folder, in case its node dies."""
        self._copies[number] = copy
        self._events.append((number, "kept", {}))

    def copy(self, number: int) -> bytes | None:
        """The last copy of a cell's folder."""
        return self._copies.get(number)

    def drop(self, number: int) -> None:
        """Remove the copy of a job that has ended."""
        self._copies.pop(number, None)

    def stop(self) -> None:
        """Request that all jobs write a checkpoint and end."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether that was requested."""
        return self._stopping
