"""The one door through which algorithms, tasks, rewards and suites come in: Python entry points.

Names are listed without importing anything; an entry is imported when it is first used. Built-ins stand in this
project's own ``pyproject.toml`` under the same groups that a plugin uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bakeoff.errors import NotFoundError, UserError


@dataclass(frozen=True)
class Registry:
    """The entries of one entry-point group."""

    kind: str
    """What an entry is, for messages: ``algorithm``, ``task``, ``reward`` or ``suite``."""
    group: str
    """The entry-point group, e.g. ``bakeoff.algorithms``."""

    @cached_property
    def _entries(self) -> Mapping[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            other = found.get(entry.name)
            if other is not None and other.value != entry.value:
                raise UserError(
                    f'two packages register the {self.kind} "{entry.name}": {_origin(other)} and {_origin(entry)}; '
                    "uninstall one of them or rename its entry point"
                )
            found[entry.name] = entry
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """All registered names, sorted; imports nothing."""
        return list(self._entries)

    def origin(self, name: str) -> str:
        """Which distribution and object a name comes from."""
        return _origin(self._entry(name))

    def load(self, name: str) -> Any:
        """The object behind a name.

        Raises:
            NotFoundError: no such name; the message suggests the nearest.
            UserError: the plugin behind the name cannot be imported; the message names its distribution.
        """
        entry = self._entry(name)
        try:
            return entry.load()
        except Exception as error:  # a broken plugin may raise anything at import
            raise UserError(
                f'{self.kind} "{name}" from {_origin(entry)} cannot be loaded: {type(error).__name__}: {error}; '
                "repair or uninstall that package"
            ) from error

    def _entry(self, name: str) -> EntryPoint:
        try:
            return self._entries[name]
        except KeyError:
            raise NotFoundError(self.kind, name, self._entries) from None


def _origin(entry: EntryPoint) -> str:
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown distribution"
    return f"{distribution} ({entry.value})"


algorithms = Registry("algorithm", "bakeoff.algorithms")
tasks = Registry("task", "bakeoff.tasks")
rewards = Registry("reward", "bakeoff.rewards")
suites = Registry("suite", "bakeoff.suites")
