"""Writes a new plugin package from the templates beside this file (``bakeoff new``)."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from bakeoff import registry
from bakeoff.errors import UserError
from bakeoff.plugins import snake_case

KINDS = ("algorithm", "task", "reward")
"""The kinds of plugin."""


def new_package(kind: str, name: str, folder: Path | None = None) -> list[Path]:
    """Write an installable package with one plugin that works, and a test of it.

    Args:
        kind: one of :data:`KINDS`.
        name: the name under which it will be registered, in snake case.
        folder: where to write; ``bakeoff-NAME`` by default. Made, and empty if it is there.

    Returns:
        The files, in the order in which they are best read.

    Raises:
        UserError: a name that cannot be one, or that exists; a folder that is not empty or cannot be written.
    """
    target = _checked(kind, name)
    distribution, module = f"bakeoff-{name.replace('_', '-')}", f"bakeoff_{name}"
    folder = Path(distribution) if folder is None else folder
    words = {"kind": kind, "name": name, "target": target, "distribution": distribution, "module": module}
    templates = files("bakeoff").joinpath("templates")
    sources = {
        f"{module}.py": templates.joinpath(kind, "module.py.template"),
        f"tests/test_{name}.py": templates.joinpath(kind, "test.py.template"),
        "pyproject.toml": templates.joinpath("pyproject.toml.template"),
        "README.md": templates.joinpath(kind, "README.md.template"),
    }
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: not empty; choose another --out")
        for place, source in sources.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(source.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another --out") from error
    return [folder / place for place in sources]


def _checked(kind: str, name: str) -> str:
    """The class or function that a name leads to."""
    if (
        not re.fullmatch(r"[a-z](?:[a-z0-9_]{0,38}[a-z0-9])?", name)
        or keyword.iskeyword(name)
        or keyword.issoftkeyword(name)
    ):
        raise UserError(
            f'"{name[:80]}" cannot be the name of {_a(kind)}: use small letters, digits and _, such as my_{kind}'
        )
    registered = registry.REGISTRIES[f"{kind}s"]
    if name in registered.names():
        raise UserError(f'the {kind} "{name}" exists already, from {registered.origin(name)}; choose another name')
    template = files("bakeoff").joinpath("templates", kind, "module.py.template").read_text(encoding="utf-8")
    target = f"make_{name}" if kind != "algorithm" else _class_name(name)
    if {name, target} & set(re.findall(r"(?<![$\w])[A-Za-z_]\w*", template)):
        raise UserError(
            f'"{name}" is a word that the code of {_a(kind)} uses already; choose another name, such as my_{name}'
        )
    return target


def _class_name(name: str) -> str:
    target = "".join(part.capitalize() for part in name.split("_"))
    if snake_case(target) != name:
        raise UserError(f'"{name}" would be a class {target}, whose name reads "{snake_case(target)}"; take that name')
    return target


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
