"""Reading a suite's YAML into plain data that remembers on which line each value stood.

YAML 1.2's rules for plain words: only ``true`` and ``false`` are booleans, ``1e-3`` is a number, ``on`` and
``2026-01-01`` are text. Nothing in a file can construct an object, and one that expands beyond reason is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bakeoff.errors import UserError

KeyPath = tuple[str | int, ...]

_MAX_BYTES = 256 * 1024
_MAX_VALUES = 20_000
_MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"


class SuiteError(UserError):
    """Everything that is wrong with a suite, one problem a line, each with its file and line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass
class SuiteData:
    """Plain data and where each piece of it came from."""

    name: str
    """The file, or another word for the source; every problem starts with it."""
    values: Any = None
    """Nested dicts with string keys, lists, and scalars."""
    origins: dict[KeyPath, str] = field(default_factory=dict)
    """Where a value stands: ``suite.yaml:7`` or ``--set budget.seconds=5``."""
    problems: list[str] = field(default_factory=list)
    """What is wrong so far, each with its place."""

    def where(self, path: KeyPath) -> str:
        """The place of a value, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.name

    def complain(self, path: KeyPath, message: str) -> None:
        """Note a problem with the value at a path."""
        self.problems.append(f"{self.where(path)}: {message}")


def from_file(path: Path) -> SuiteData:
    """Read a YAML file.

    Raises:
        SuiteError: the file cannot be read, is not UTF-8 text, is not YAML, or is unreasonably large or deep.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SuiteError([f"{path}: cannot be read: {error.strerror or error}; check the path"]) from error
    if len(raw) > _MAX_BYTES:
        raise SuiteError([f"{path}: larger than {_MAX_BYTES // 1024} KiB; a suite is a short YAML file"])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SuiteError([f"{path}:{line}: not UTF-8 text; a suite is a YAML file"]) from error
    return from_text(text, str(path))


def from_text(text: str, name: str) -> SuiteData:
    """Read YAML text; ``name`` stands for the file in messages."""
    data = SuiteData(name)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        data.values = _Converter(data).convert(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark is not None else name
        raise SuiteError([f"{place}: not valid YAML: {error.problem or error.context}"]) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise SuiteError(
            [f"{name}:{line}: not valid YAML: a character that is not allowed ({error.reason})"]
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: "\UFFFFFFFF" inside PyYAML
        raise SuiteError([f"{name}: not valid YAML: {' '.join(str(error).split())}"]) from error
    except (RecursionError, _TooLargeError) as error:
        detail = str(error) if isinstance(error, _TooLargeError) else "values are nested too deeply"
        raise SuiteError([f"{name}: {detail}; a suite is a short YAML file"]) from error
    return data


def from_mapping(values: Mapping[str, Any], name: str = "suite") -> SuiteData:
    """Take a suite that is already plain data, such as a dict written in Python."""
    data = SuiteData(name)
    data.values = _plain(values, data, ())
    return data


def override(data: SuiteData, assignments: Sequence[str]) -> None:
    """Apply ``--set`` assignments such as ``budget.reward_queries=500``; the value is read as YAML.

    A key that itself holds a dot is found where it exists already.
    """
    for assignment in assignments:
        keys_text, equals, value_text = assignment.partition("=")
        origin = f"--set {assignment}"
        if not equals or not all(keys_text.split(".")):
            data.problems.append(f"{origin}: expected KEY.KEY=VALUE, such as budget.reward_queries=500")
            continue
        try:
            value = from_text(value_text, origin)
        except SuiteError as error:
            data.problems.extend(error.problems)
            continue
        data.problems.extend(value.problems)
        _assign(data, keys_text, value.values, origin)


def assigned(key: str, value: Any) -> str:
    """The assignment that :func:`override` reads as this value: plain data, paths, and numpy's numbers.

    Raises:
        UserError: something else.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, np.generic):
            return value.item()
        raise UserError(f"{key}: {value!r} is a {type(value).__name__}, which no suite can hold; give plain values")

    text = json.dumps(value, default=plain)
    # JSON is YAML, but that it writes what lies beyond 16 bits as two escapes.
    return f"{key}=" + re.sub(r"\\u(d[89ab]..)\\u(d[c-f]..)", lambda pair: json.loads(f'"{pair[0]}"'), text)


def _assign(data: SuiteData, keys_text: str, value: Any, origin: str) -> None:
    target, rest = data.values, keys_text.split(".")
    path: KeyPath = ()
    while True:
        if not isinstance(target, dict):
            data.problems.append(
                f'{origin}: "{".".join(map(str, path)) or data.name}" is not a mapping of keys to values'
            )
            return
        joined = [".".join(rest[:length]) for length in range(len(rest), 0, -1)]
        key = next((name for name in joined if name in target), rest[0])
        rest = rest[key.count(".") + 1 :]
        path = (*path, key)
        if not rest:
            break
        if target.get(key) is None:
            target[key] = {}
            data.origins[path] = origin
        elif isinstance(target[key], list) and all(isinstance(name, str) for name in target[key]):
            target[key] = {name: {} for name in target[key]}  # a list of names, each with its default settings
        target = target[key]
    for stale in [known for known in data.origins if known[: len(path)] == path]:
        del data.origins[stale]
    target[key] = value
    data.origins[path] = origin


class _TooLargeError(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the implicit types of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way to declare it


_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+0123456789."),
    ("null", r"~|null|Null|NULL", "~nN"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.yaml_implicit_resolvers.setdefault("", []).append((_TAG + "null", re.compile(r"^$")))


class _Converter:
    """YAML nodes to plain data, with a cap on how much aliases may expand."""

    def __init__(self, data: SuiteData) -> None:
        self.data, self.values = data, 0

    def convert(self, node: yaml.Node, path: KeyPath) -> Any:
        self.values += 1
        if self.values > _MAX_VALUES:
            raise _TooLargeError(f"more than {_MAX_VALUES} values")
        if len(path) > _MAX_DEPTH:
            raise _TooLargeError("values are nested too deeply")
        self.data.origins.setdefault(path, f"{self.data.name}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.convert(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self.data.complain(path, f'tag "{node.tag}" is not used in suites; remove it')
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = f"{self.data.name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                self.data.problems.append(f"{place}: a key must be a word, not a list or a mapping")
                continue
            key = key_node.value
            if key in result:
                first = self.data.origins[(*path, key)].rpartition(":")[2]
                self.data.problems.append(f'{place}: key "{key}" is given twice (first on line {first}); remove one')
                continue
            self.data.origins[(*path, key)] = place
            result[key] = self.convert(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        tag, text = node.tag.removeprefix(_TAG), node.value
        try:
            if tag == "null":
                return None
            if tag == "bool":
                return {"true": True, "false": False}[text.lower()]
            if tag == "int":
                return int(text)
            if tag == "float":
                value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
                if math.isfinite(value):
                    return value
                self.data.complain(path, f"{text} is not a finite number")
                return None
            if tag == "str":
                return text
        except (ValueError, KeyError):
            self.data.complain(path, f'"{text[:40]}" cannot be read as {tag}')
            return None
        self.data.complain(path, f'tag "{node.tag}" is not used in suites; remove it')
        return None


def _plain(value: Any, data: SuiteData, path: KeyPath) -> Any:
    if len(path) > _MAX_DEPTH:
        data.complain((), "values are nested too deeply; a suite is a short mapping")
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, data, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, data, (*path, index)) for index, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        if isinstance(value, float) and not math.isfinite(value):
            data.complain(path, f"{'.'.join(map(str, path))}: {value} is not a finite number")
            return None
        return value
    wanted = "a suite holds text, numbers, true, false, null, lists and mappings"
    data.complain(path, f"{'.'.join(map(str, path))}: is a {type(value).__name__}; {wanted}")
    return None
