"""How algorithms, tasks, rewards and suites are registered: Python entry points.

Names are listed without importing anything; an entry is imported when it is first used. Built-ins are in this
project's own ``pyproject.toml`` under the same groups that a plugin uses. A fault in one package (metadata that
cannot be read, a name that another has too, an import that fails) affects only users of that name.
A file given with ``--plugin`` adds its entries here too (:mod:`bakeoff.plugins`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol

from bakeoff.errors import NotFoundError, UserError


class Entry(Protocol):
    """A name and the object it loads."""

    @property
    def name(self) -> str:
        """The registered name."""

    @property
    def origin(self) -> str:
        """The distribution or file it comes from, and the object."""

    @property
    def fix(self) -> str:
        """The fix when it cannot be loaded."""

    def load(self) -> Any:
        """The object; may raise anything."""


@dataclass(frozen=True)
class InstalledEntry:
    """An entry point of an installed distribution."""

    name: str
    """The registered name."""
    distribution: str
    """The distribution's name and version."""
    point: metadata.EntryPoint
    """The entry point's module and object."""

    @property
    def origin(self) -> str:
        """Distribution and object."""
        return f"{self.distribution} ({self.point.value})"

    @property
    def fix(self) -> str:
        """The fix when it cannot be loaded."""
        return "repair or uninstall that package"

    def load(self) -> Any:
        """Import the object."""
        return self.point.load()


@dataclass(frozen=True)
class _Installed:
    """The entries of the installed distributions."""

    entries: Mapping[str, list[InstalledEntry]]
    """By entry-point group."""
    problems: tuple[str, ...]
    """A line for each distribution whose entry points cannot be read."""


@dataclass(eq=False)
class Registry:
    """The entries of one entry-point group."""

    kind: str
    """What an entry is, for messages: ``algorithm``, ``task``, ``reward`` or ``suite``."""
    group: str
    """The entry-point group, e.g. ``bakeoff.algorithms``."""
    added: list[Entry] = field(default_factory=list)
    """Entries of plugin files."""

    def names(self) -> list[str]:
        """All registered names, sorted; imports nothing."""
        return sorted(self._by_name())

    def origin(self, name: str) -> str:
        """The distribution and object of a name; all of them where several claim it."""
        return " and ".join(entry.origin for entry in self._claims(name))

    def problem(self, name: str) -> str | None:
        """Why a name cannot be used, as far as that shows without importing; None where it can."""
        claims = self._claims(name)
        if len(claims) == 1:
            return None
        listed = " and ".join(entry.origin for entry in claims)
        return (
            f'the {self.kind} "{name}" is registered twice: {listed}; uninstall one of them or rename its entry point'
        )

    def load(self, name: str) -> Any:
        """The object registered under a name.

        Raises:
            NotFoundError: no such name; the message suggests the nearest.
            UserError: two packages claim the name, or its plugin cannot be imported; the message names them.
        """
        claims = self._claims(name)
        problem = self.problem(name)
        if problem is not None:
            raise UserError(problem)
        try:
            return claims[0].load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a broken plugin may raise anything at import
            reason = " ".join(str(error).split())
            raise UserError(
                f'{self.kind} "{name}" from {claims[0].origin} cannot be loaded: {type(error).__name__}: {reason}; '
                f"{claims[0].fix}"
            ) from error

    def _claims(self, name: str) -> list[Entry]:
        by_name = self._by_name()
        if name not in by_name:
            raise NotFoundError(self.kind, name, by_name)
        return by_name[name]

    def _by_name(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in [*_installed().entries.get(self.group, ()), *self.added]:
            found.setdefault(entry.name, []).append(entry)
        return found


algorithms = Registry("algorithm", "bakeoff.algorithms")
tasks = Registry("task", "bakeoff.tasks")
rewards = Registry("reward", "bakeoff.rewards")
suites = Registry("suite", "bakeoff.suites")

REGISTRIES = {"algorithms": algorithms, "tasks": tasks, "rewards": rewards, "suites": suites}
"""All of them by their plural."""


def problems() -> list[str]:
    """A line for each installed distribution whose entry points cannot be read."""
    return list(_installed().problems)


def distributions() -> set[str]:
    """Names of the distributions that have entries here."""
    return {entry.distribution.partition(" ")[0] for entries in _installed().entries.values() for entry in entries}


def forget() -> None:
    """Read the installed distributions again on the next use."""
    _installed.cache_clear()


@functools.cache
def _installed() -> _Installed:
    """Every entry of ours in every distribution, one distribution at a time: unreadable metadata affects that one only.

    Of two distributions of one name the first on ``sys.path`` counts, as it does for imports.
    """
    groups = {registry.group for registry in REGISTRIES.values()}
    entries: dict[str, list[InstalledEntry]] = {group: [] for group in groups}
    problems, seen = [], set()
    for distribution in metadata.distributions():
        label = str(getattr(distribution, "_path", "an unknown distribution"))
        try:
            text = distribution.read_text("entry_points.txt")
            if not text or "bakeoff." not in text:
                continue
            name = distribution.metadata["Name"]
            if name in seen:
                continue
            seen.add(name)
            label = f"{name} {distribution.version}"
            ours = [point for point in distribution.entry_points if point.group in groups]
            for point in ours:
                entries[point.group].append(InstalledEntry(point.name, label, point))
        except Exception as error:  # a damaged file may make a parser raise anything
            reason = " ".join(str(error).split())
            problems.append(
                f"the entry points of {label} cannot be read: {type(error).__name__}: {reason}; "
                "repair or uninstall that package"
            )
    return _Installed(entries, tuple(problems))
