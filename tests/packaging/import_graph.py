"""The graph of imports between the project's files, lazy and type-checking imports included."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "algos": "bakeoff.algos",
    "envs": "bakeoff.envs",
    "benchmarks": "bakeoff.benchmarks",
    "reports": "bakeoff.reports",
    "src/bakeoff": "bakeoff",
}
SCRIPTS = {"speed", "studies"}
"""Folders of benchmarks/ that hold scripts and are in no package."""


def modules() -> dict[str, Path]:
    """Every module of the project by its full name; a package's ``__init__`` by the package's."""
    found = {}
    for folder, package in FOLDERS.items():
        home = ROOT / folder
        for file in sorted(home.rglob("*.py")):
            parts = file.relative_to(home).with_suffix("").parts
            if not SCRIPTS & set(parts) and not (home / parts[0]).is_symlink():
                name = ".".join((package, *parts)).removesuffix(".__init__")
                found[name] = file
    return found


def import_graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Each module to those that it names in an import; ``from package import module`` names the module, not the package."""
    graph = {}
    for module, file in files.items():
        named = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = _absolute(module, file, node)
                wholes = {alias.name: f"{source}.{alias.name}" for alias in node.names}
                named |= {whole if whole in files else source for whole in wholes.values()}
        graph[module] = {name for name in named if name in files and name != module}
    return graph


def _absolute(module: str, file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def between_packages(graph: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """The same graph between second-level packages (``bakeoff.benchmarks.spec``) and single files at that level."""
    packages: dict[str, set[str]] = {}
    for module, named in graph.items():
        here = _package(module)
        packages.setdefault(here, set()).update(_package(name) for name in named)
        packages[here].discard(here)
    return packages


def _package(module: str) -> str:
    return ".".join(module.split(".")[:3])


def cycles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, by name."""
    nodes = sorted(graph)
    places = {node: place for place, node in enumerate(nodes)}
    arrows = [(places[node], places[other]) for node in nodes for other in graph[node]]
    rows, columns = zip(*arrows, strict=True) if arrows else ((), ())
    matrix = coo_array((np.ones(len(arrows)), (rows, columns)), shape=(len(nodes), len(nodes)))
    found: dict[int, list[str]] = {}
    for node, label in zip(nodes, connected_components(matrix, connection="strong")[1].tolist(), strict=True):
        found.setdefault(label, []).append(node)
    return sorted(component for component in found.values() if len(component) > 1)
