"""Constitutions from files: YAML of our own layout, and the JSON of the repository that belongs to Bai et al. 2022.

Every mistake is reported with its line, all of them at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from bakeoff.algos.constitutional.constitution import Constitution, Example, Principle
from bakeoff.algos.constitutional.templates import PLACEHOLDERS, PLAIN, ROLES, PlaceholderError, Step, Template, Text
from bakeoff.errors import ConfigError
from bakeoff.names import did_you_mean

Source = str | Path | Mapping[str, Any]
"""A shipped constitution's name, a file, or the content of a YAML file."""

SHIPPED: Final = ("helpful-harmless", "reviews")
"""Constitutions that come with the toolkit."""

KEYS = ("name", "description", "principles", "templates", "options", "verdicts", "tags", "examples", "separator")
PRINCIPLE_KEYS = ("name", "critique", "revision", "choice")
STEPS: tuple[Step, ...] = ("critique", "revision", "choice", "verdict")
_MAX_BYTES = 1024 * 1024


class _Located(dict[str, Any]):
    """A mapping that knows the line of each key's value, counted from 1."""

    lines: dict[str, int]


class _Lines(list[Any]):
    """A list that knows the line of each item."""

    lines: list[int]


def load_constitution(source: Source | Sequence[Source]) -> Constitution:
    """A constitution from its name, a file, or several whose principles are put together.

    A ``.yaml`` file is described in docs/constitutional.md. A ``.json`` file has the layout of the paper's repository: a mapping
    of names to ``{"prompt": critique request, "edit_request": revision request}``, or a list of choice prompts.

    Raises:
        ConfigError: nothing there, or a file with mistakes, each with its line.
    """
    if isinstance(source, str | Path | Mapping):
        return _load_one(source)
    if not source:
        raise ConfigError("constitution", ["there is none; give a name or a file"])
    first, *others = (_load_one(one) for one in source)
    principles = [p for constitution in (first, *others) for p in constitution.principles]
    return Constitution(**{**vars(first), "principles": tuple(principles)})


def _load_one(source: Source) -> Constitution:
    if isinstance(source, Mapping):
        return from_mapping(source)
    if str(source) in SHIPPED:
        file = resources.files("bakeoff.algos.constitutional").joinpath("constitutions", f"{source}.yaml")
        return from_text(file.read_text(encoding="utf-8"), str(source))
    path = Path(source)
    if path.suffix not in (".yaml", ".yml", ".json"):
        hint = did_you_mean(str(source), SHIPPED)
        raise ConfigError(
            "constitution",
            [f'no constitution "{source}"{hint}; shipped: {", ".join(SHIPPED)}; or give a .yaml or .json file'],
        )
    return from_file(path)


def from_file(path: Path) -> Constitution:
    """Read ``.yaml``, ``.yml`` or ``.json``.

    Raises:
        ConfigError: unreadable, or wrong; with lines.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > _MAX_BYTES:
            raise ConfigError(f"constitution {path}", ["larger than a megabyte; a constitution is a short file"])
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"constitution {path}", [f"cannot be read: {error.strerror}; check the path"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"constitution {path}", [f"not UTF-8 (byte {error.start}); save it as UTF-8"]) from None
    return from_json(text, path) if path.suffix == ".json" else from_text(text, str(path))


def from_text(text: str, source: str) -> Constitution:
    """Read YAML text; ``source`` is its name in messages, and the constitution's where the text gives none."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = None if node is None else _plain(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise ConfigError(
            f"constitution {source}", [f"{line}not valid YAML: {error.problem or error.context}"]
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"constitution {source}", [f"not valid YAML: {' '.join(str(error).split())}"]) from None
    return _Reader(source).constitution(values)


def from_mapping(values: Mapping[str, Any]) -> Constitution:
    """A constitution given in a suite or in Python, with the keys of a YAML file."""
    return from_text(json.dumps(values), str(values.get("name", "of your own")))  # JSON is YAML


def from_json(text: str, path: Path) -> Constitution:
    """The paper's layouts; their texts are literal."""
    place = f"constitution {path}"
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(place, [f"line {error.lineno}: not JSON ({error.msg})"]) from None
    if isinstance(values, list):
        wrong = [i for i, one in enumerate(values) if not isinstance(one, str) or not one.strip()]
        if wrong or not values:
            raise ConfigError(place, ["expected a list of choice prompts, each a text that is not empty"])
        principles = [Principle(f"choice {i}", choice=Text.literal(_choice(one))) for i, one in enumerate(values)]
        return Constitution(path.stem, tuple(principles))
    if not isinstance(values, dict) or not values:
        raise ConfigError(
            place, ["expected a mapping of names to prompt and edit_request, or a list of choice prompts"]
        )
    return Constitution(path.stem, tuple(_edit(place, str(name), one) for name, one in values.items()))


def _choice(text: str) -> str:
    """A choice prompt of the paper's ends in "Options:"; the options are our template's business."""
    return text.strip().removesuffix("Options:").strip()


def _edit(place: str, name: str, value: Any) -> Principle:
    texts = []
    for key in ("prompt", "edit_request"):
        one = value.get(key) if isinstance(value, dict) else None
        one = "\n".join(one) if isinstance(one, list) and all(isinstance(part, str) for part in one) else one
        if not isinstance(one, str) or not one.strip():
            raise ConfigError(place, [f'"{name}": expected "prompt" and "edit_request", each a text that is not empty'])
        texts.append(Text.literal(one.strip()))
    return Principle(name, critique=texts[0], revision=texts[1])


class _Reader:
    """Turns located YAML data into a constitution, noting every problem on the way."""

    def __init__(self, source: str) -> None:
        self.source, self.problems = source, list[str]()

    def constitution(self, values: Any) -> Constitution:
        if not isinstance(values, _Located):
            raise ConfigError(f"constitution {self.source}", ["expected a mapping with a list of principles"])
        self._keys(values, KEYS)
        principles = self._list(values, "principles", required=True)
        templates = self._mapping(values, "templates")
        self._keys(templates, ("chat", PLAIN_KEY))
        read: dict[str, Any] = {
            "name": str(values.get("name", Path(self.source).stem)),
            "principles": tuple(self._principle(p, line, i) for i, (p, line) in enumerate(_numbered(principles))),
            "chat": self._templates(self._mapping(templates, "chat"), chat=True),
            "plain": self._templates(self._mapping(templates, PLAIN_KEY), chat=False),
            "verdicts": self._texts(values, "verdicts"),
            "tags": self._texts(values, "tags"),
            "examples": self._examples(self._mapping(values, "examples")),
        }
        options = self._texts(values, "options")
        if options and len(options) != 2:
            self._complain(values.lines["options"], f"options are {list(options)}, expected two")
        if len(set(read["verdicts"])) != len(read["verdicts"]) or len(read["verdicts"]) == 1:
            self._complain(values.lines["verdicts"], "verdicts: expected two or more, all different, worst first")
        read |= {"options": options} if options else {}
        read |= {"separator": str(values["separator"])} if "separator" in values else {}
        if self.problems:
            raise ConfigError(f"constitution {self.source}", self.problems)
        return Constitution(**read)

    def _principle(self, value: Any, line: int, number: int) -> Principle:
        if not isinstance(value, _Located):
            self._complain(line, "a principle is a mapping with critique, revision or choice")
            return Principle(str(number))
        self._keys(value, PRINCIPLE_KEYS)
        texts: dict[str, Text] = {}
        for step in ("critique", "revision", "choice"):
            if step in value:
                inner = [name for name in PLACEHOLDERS[step] if name not in ("request", "critique_request")]
                texts[step] = self._text(value[step], value.lines[step], inner)
        if not texts:
            self._complain(line, "a principle needs a critique, a revision or a choice")
        return Principle(str(value.get("name", f"principle {number}")), **texts)

    def _templates(self, values: _Located, *, chat: bool) -> dict[Step, Template]:
        self._keys(values, STEPS)
        found: dict[Step, Template] = {}
        for step in STEPS:
            if step in values:
                line = values.lines[step]
                turns = self._turns(values[step], line) if chat else [(PLAIN, values[step], line)]
                found[step] = Template(tuple((r, self._text(t, at, PLACEHOLDERS[step])) for r, t, at in turns))
        return found

    def _turns(self, value: Any, line: int) -> list[tuple[str, Any, int]]:
        if not isinstance(value, _Lines) or not value:
            self._complain(line, "a chat template is a list of turns such as {user: ...}")
            return []
        turns = []
        for turn, at in _numbered(value):
            if not isinstance(turn, _Located) or len(turn) != 1 or next(iter(turn)) not in ROLES:
                self._complain(at, f"a turn is one of {', '.join(ROLES)} with what is said")
                continue
            ((role, text),) = turn.items()
            turns.append((role, text, turn.lines[role]))
        return turns

    def _examples(self, values: _Located) -> dict[Step, tuple[Example, ...]]:
        self._keys(values, STEPS)
        found: dict[Step, tuple[Example, ...]] = {}
        for step in STEPS:
            rows = []
            for row, line in _numbered(self._list(values, step)):
                if not isinstance(row, _Located) or "answer" not in row:
                    self._complain(line, "an example is a mapping of the step's placeholders and an answer")
                    continue
                self._keys(row, (*PLACEHOLDERS[step], "answer"))
                texts = {name: "" for name in PLACEHOLDERS[step]} | {name: str(text) for name, text in row.items()}
                rows.append(Example(texts, texts.pop("answer")))
            if rows:
                found[step] = tuple(rows)
        return found

    def _text(self, value: Any, line: int, allowed: Any) -> Text:
        if not isinstance(value, str):
            self._complain(line, f"expected a text, got {value!r}")
            return Text.literal("")
        try:
            return Text.parse(value, allowed)
        except PlaceholderError as error:
            self._complain(line + error.line, str(error))
            return Text.literal("")

    def _texts(self, values: _Located, key: str) -> tuple[str, ...]:
        found = self._list(values, key)
        if not all(isinstance(one, str) and one for one in found):
            self._complain(values.lines[key], f"{key}: expected texts that are not empty")
            return ()
        return tuple(found)

    def _list(self, values: _Located, key: str, *, required: bool = False) -> _Lines:
        value = values.get(key)
        if isinstance(value, _Lines) and (value or not required):
            return value
        if value is not None or required:
            self._complain(
                values.lines.get(key, 1), f"{key}: expected a list" + (" of at least one" if required else "")
            )
        empty = _Lines()
        empty.lines = []
        return empty

    def _mapping(self, values: _Located, key: str) -> _Located:
        value = values.get(key)
        if isinstance(value, _Located):
            return value
        if value is not None:
            self._complain(values.lines[key], f"{key}: expected a mapping")
        empty = _Located()
        empty.lines = {}
        return empty

    def _keys(self, values: _Located, known: tuple[str, ...]) -> None:
        for key in values:
            if key not in known:
                self._complain(
                    values.lines[key], f'unknown key "{key}"{did_you_mean(key, known)}; known: {", ".join(known)}'
                )

    def _complain(self, line: int, message: str) -> None:
        self.problems.append(f"line {line}: {message}")


PLAIN_KEY = "plain"


def _numbered(values: _Lines) -> list[tuple[Any, int]]:
    return list(zip(values, values.lines, strict=True))


def _plain(node: yaml.Node) -> Any:
    """Strings, lists and mappings with lines; every other scalar as YAML's safe schema has it."""
    if isinstance(node, yaml.MappingNode):
        found = _Located()
        found.lines = {}
        for key, value in node.value:
            name = str(key.value)
            if name in found:
                raise ValueError(f'line {key.start_mark.line + 1}: the key "{name}" is given twice')
            found[name], found.lines[name] = _plain(value), _first_line(value)
        return found
    if isinstance(node, yaml.SequenceNode):
        items = _Lines(_plain(one) for one in node.value)
        items.lines = [_first_line(one) for one in node.value]
        return items
    if node.tag == "tag:yaml.org,2002:null":
        return None
    return node.value  # names, texts and letters: a word such as "no" or a number stays what was written


def _first_line(node: yaml.Node) -> int:
    """The line on which a value's own text begins: the one after the mark of a block scalar."""
    return int(node.start_mark.line) + 1 + (1 if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">") else 0)
