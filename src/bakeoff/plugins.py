"""Plugins without packaging: a Python file that is named with ``--plugin``, or in ``bakeoff.run(plugins=[...])``.

A file may say what it offers::

    bakeoff_plugin = {"algorithms": {"mine": Mine}, "rewards": {"shouting": make_shouting}}

with the groups ``algorithms``, ``tasks``, ``rewards`` and ``suites`` and the objects that entry points would lead to. Where it
does not name its algorithms, every subclass of ``Algorithm`` that is written in it is one, under its class's name in snake
case. Naming a file runs it. Its text travels to the worker processes, so that all of them run what was recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import linecache
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bakeoff import registry
from bakeoff.errors import UserError
from bakeoff.names import did_you_mean

MAPPING = "bakeoff_plugin"
"""The name under which a file says what it offers."""


@dataclass(frozen=True)
class PluginFile:
    """A file's text as it was when the run began; plain JSON on the wire."""

    path: str
    """The absolute path it was read from."""
    sha256: str
    """SHA-256 of its bytes."""
    source: str
    """Its text."""

    @classmethod
    def read(cls, path: str | Path) -> PluginFile:
        """Read a file.

        Raises:
            UserError: it is no Python file, or cannot be read.
        """
        path = Path(path)
        if path.suffix != ".py":
            raise UserError(
                f"plugin {path}: not a .py file; --plugin takes one Python file, packages are installed with pip"
            )
        try:
            raw = path.read_bytes()
            source = raw.decode("utf-8-sig")
        except OSError as error:
            raise UserError(f"plugin {path}: cannot be read: {error.strerror or error}; check the path") from error
        except UnicodeDecodeError as error:
            raise UserError(f"plugin {path}: not UTF-8 text; save it as UTF-8") from error
        return cls(str(path.absolute()), hashlib.sha256(raw).hexdigest(), source)

    def to_json(self) -> dict[str, str]:
        """Plain data, for the wire."""
        return asdict(self)

    def record(self) -> dict[str, Any]:
        """What the manifest keeps: with the names that the file has brought, by kind, where it is loaded."""
        _, entries = _loaded.get(self.path, (self, {}))
        names = {group: [entry.name for entry in found] for group, found in entries.items() if found}
        return {"path": self.path, "sha256": self.sha256, "names": names}


@dataclass(frozen=True)
class FileEntry:
    """A name that a plugin file brings."""

    name: str
    """The registered name."""
    file: PluginFile
    """The file that has it."""
    value: Any
    """The object."""

    @property
    def origin(self) -> str:
        """File and object."""
        return f"{self.file.path} ({getattr(self.value, '__qualname__', self.value)})"

    @property
    def fix(self) -> str:
        """The fix when it cannot be loaded."""
        return "repair that file"

    def load(self) -> Any:
        """The object: the file has been run already."""
        return self.value


_loaded: dict[str, tuple[PluginFile, dict[str, list[FileEntry]]]] = {}
"""The plugin files loaded in this process, by path."""


@contextlib.contextmanager
def loaded(paths: Sequence[str | Path]) -> Iterator[tuple[PluginFile, ...]]:
    """Run plugin files and have their names registered inside the block.

    Raises:
        UserError: a file that cannot be read or run, offers nothing, or brings a name that exists already.
    """
    files = tuple(dict.fromkeys(PluginFile.read(path) for path in paths))
    before = set(_loaded)
    try:
        for file in files:
            load_plugin(file)
        yield files
    finally:
        for path in set(_loaded) - before:
            unload_plugin(path)


def load_plugin(file: PluginFile) -> None:
    """Run a plugin's text, unless it was, and register what it offers; an older text of the same path goes.

    Raises:
        UserError: it cannot be run, offers nothing, or brings a name that exists already; the message names the file.
    """
    known = _loaded.get(file.path)
    if known is not None:
        if known[0].sha256 == file.sha256:
            return
        unload_plugin(file.path)
    offered = _offered(file, _run(file))
    entries = {
        group: [FileEntry(name, file, value) for name, value in values.items()] for group, values in offered.items()
    }
    for group, found in entries.items():
        taken = registry.REGISTRIES[group]
        for entry in found:
            if entry.name in taken.names():
                raise UserError(
                    f'plugin {file.path}: the {taken.kind} "{entry.name}" exists already, from '
                    f"{taken.origin(entry.name)}; leave out --plugin if that is the same, or give it another name in "
                    f'{MAPPING} = {{"{group}": {{...}}}}'
                )
    for group, found in entries.items():
        registry.REGISTRIES[group].added.extend(found)
    _loaded[file.path] = (file, entries)


def unload_plugin(path: str) -> None:
    """Take the names of a plugin file out again."""
    _, entries = _loaded.pop(path)
    for group, found in entries.items():
        taken = registry.REGISTRIES[group]
        taken.added[:] = [entry for entry in taken.added if entry not in found]


def _run(file: PluginFile) -> types.ModuleType:
    """The text as a module of its own name; other modules that it imports are found as everywhere, not beside it."""
    name = f"bakeoff_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', Path(file.path).stem)}_{file.sha256[:8]}"
    module = types.ModuleType(name)
    module.__file__ = file.path
    sys.modules[name] = module  # dataclasses and pydantic look it up
    # What runs is this text, wherever the process is: tracebacks and settings' help texts are read from here.
    linecache.cache[file.path] = (len(file.source), None, file.source.splitlines(keepends=True), file.path)
    try:
        exec(compile(file.source, file.path, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        reason = " ".join(str(error).split())
        where = f", line {line}" if (line := _line(error, file.path)) and not isinstance(error, SyntaxError) else ""
        raise UserError(
            f"plugin {file.path}{where}: cannot be run: {type(error).__name__}: {reason}; repair it, or leave out --plugin"
        ) from error
    return module


def _line(error: BaseException, path: str) -> int | None:
    """The last line of the file that the error passed through."""
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == path:
            line = step.tb_lineno
        step = step.tb_next
    return line


def _offered(file: PluginFile, module: types.ModuleType) -> dict[str, dict[str, Any]]:
    said = getattr(module, MAPPING, {})
    shape = f'{MAPPING} = {{"algorithms": {{"name": Class}}}}'
    if not isinstance(said, Mapping) or not all(isinstance(values, Mapping) for values in said.values()):
        raise UserError(f"plugin {file.path}: {MAPPING} is no mapping of groups to names and objects; write {shape}")
    for group in said:
        if group not in registry.REGISTRIES:
            groups = ", ".join(registry.REGISTRIES)
            raise UserError(
                f'plugin {file.path}: unknown group "{group}" in {MAPPING}{did_you_mean(str(group), registry.REGISTRIES)}; '
                f"groups are {groups}"
            )
    offered = {group: {str(name): value for name, value in values.items()} for group, values in said.items()}
    if "algorithms" not in offered:
        offered["algorithms"] = _classes(module)
    folder, suites = Path(file.path).parent, offered.get("suites", {})
    for name, path in suites.items():
        if not isinstance(path, str | Path):
            raise UserError(f'plugin {file.path}: suite "{name}" is {path!r}, expected the path of a YAML file')
    offered["suites"] = {name: folder / path for name, path in suites.items()}
    if not any(offered.values()):
        unfinished = "".join(f" ({name} lacks {', '.join(lacks)})" for name, lacks in _unfinished(module).items())
        raise UserError(
            f"plugin {file.path}: offers nothing{unfinished}; write a subclass of bakeoff.Algorithm in it, or {shape}"
        )
    return offered


def _classes(module: types.ModuleType) -> dict[str, Any]:
    """Every algorithm that is written in the module and can be built, by its snake-cased name."""
    found: dict[str, Any] = {}
    for value in _written(module):
        if inspect.isabstract(value):
            continue
        name = snake_case(value.__name__)
        if found.setdefault(name, value) is not value:
            raise UserError(
                f'plugin {module.__file__}: {found[name].__name__} and {value.__name__} are both called "{name}"; rename one, or '
                f'name them in {MAPPING} = {{"algorithms": {{...}}}}'
            )
    return found


def _unfinished(module: types.ModuleType) -> dict[str, list[str]]:
    """Algorithms of the module that cannot be built, and the methods that they lack."""
    return {
        value.__name__: sorted(value.__abstractmethods__) for value in _written(module) if inspect.isabstract(value)
    }


def _written(module: types.ModuleType) -> list[Any]:
    """Every algorithm class that is written in the module, those that begin with _ left out."""
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    if not classes:
        return []
    from bakeoff.algos.core.algorithm import Algorithm

    own = {name: value for name, value in classes.items() if value.__module__ == module.__name__ and name[0] != "_"}
    return list(dict.fromkeys(value for value in own.values() if issubclass(value, Algorithm)))


def snake_case(name: str) -> str:
    """``PlainReinforce`` to ``plain_reinforce``, ``MyPPO`` to ``my_ppo``, ``PPO2`` to ``ppo2``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
