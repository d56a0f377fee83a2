"""The layout: imports run one way and in no cycle, algos/ shows the contestants, tests/ mirrors the code."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.packaging.import_graph import FOLDERS, ROOT, between_packages, cycles, import_graph, modules

FROM = re.compile(r"^\s*(?:from|import) (bakeoff(?:\.\w+)*)", re.MULTILINE)
MAY_NOT_IMPORT = {
    "envs": ("bakeoff.algos", "bakeoff.benchmarks", "bakeoff.reports", "bakeoff.api", "bakeoff.cli"),
    "algos": ("bakeoff.benchmarks", "bakeoff.reports", "bakeoff.api", "bakeoff.cli"),
    "benchmarks": ("bakeoff.cli",),
    "reports": ("torch", "transformers", "gymnasium", "bakeoff.envs", "bakeoff.algos", "bakeoff.benchmarks"),
}
ALGOS_PACKAGES = {"core", "losses", "preference_data", "reward_models", "constitutional", "sb3", "trl"}
"""The folders of algos/; all other algorithms are one file each at its top."""


def imports_of(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("folder", MAY_NOT_IMPORT)
def test_imports_run_one_way(folder: str) -> None:
    against = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in imports_of(file)
        if any(name == banned or name.startswith(banned + ".") for banned in MAY_NOT_IMPORT[folder])
    ]
    assert against == []


@pytest.mark.parametrize("level", [dict, between_packages], ids=["files", "packages"])
def test_no_import_cycle(level: Callable[[Any], dict[str, set[str]]]) -> None:
    graph = level(import_graph(modules()))
    for cycle in cycles(graph):
        for name in cycle:
            print(name, "->", *sorted(graph[name] & set(cycle)))
    assert cycles(graph) == []


def test_lazy_and_type_checking_imports_count(tmp_path: Path) -> None:
    texts = {
        "p": "from p import one",
        "p.one": "def later():\n    from p.two import name",
        "p.two": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import three",
        "p.three": "import p.one",
        "p.four": "from p.one import name\nimport torch",
    }
    files = {name: tmp_path / ("__init__.py" if name == "p" else f"{name.partition('.')[2]}.py") for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    graph = import_graph(files)
    assert graph["p.two"] == {"p.three"}  # a module that is named counts, and not the package that holds it
    assert graph["p.four"] == {"p.one"}
    assert cycles(graph) == [["p.one", "p.three", "p.two"]]
    assert between_packages({"a.b.c.d": {"a.b.e.f", "a.b.c.g"}, "a.b.e.f": set()}) == {
        "a.b.c": {"a.b.e"},
        "a.b.e": set(),
    }


def test_top_of_algos_holds_contestants_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    registered = {target.partition(":")[0] for target in project["entry-points"]["bakeoff.algorithms"].values()}
    files = {f"bakeoff.algos.{file.stem}" for file in (ROOT / "algos").glob("*.py")} - {"bakeoff.algos.__init__"}
    assert files - registered == set()
    assert {file.parent.name for file in (ROOT / "algos").glob("*/*.py")} <= ALGOS_PACKAGES


def test_folders_of_tests_mirror_the_code() -> None:
    without = [
        str(folder.relative_to(ROOT))
        for code in FOLDERS
        for folder in sorted((ROOT / "tests" / Path(code).name).rglob("*"))
        if any(folder.glob("*.py"))
        and not (ROOT / code / folder.relative_to(ROOT / "tests" / Path(code).name)).is_dir()
    ]
    assert without == []


def test_names_of_test_functions_are_short() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) >= 60
    ]
    assert long == []


def test_the_harness_asks_for_capabilities_never_for_names() -> None:
    """No algorithm's registered name stands as a string in the harness or in the reports."""
    from bakeoff import registry

    names = set(registry.algorithms.names()) - {"reference"}  # also an ordinary word: the reference's completions
    guilty = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for folder in ("benchmarks", "reports")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if not {"speed", "studies"} & set(file.parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert guilty == []


def test_importing_bakeoff_is_light() -> None:
    script = (
        "import sys, bakeoff; print([m for m in ('torch', 'transformers', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["bakeoff", "bakeoff.algos", "bakeoff.envs", "bakeoff.reports", "bakeoff.testing"])
def test_public_names_exist(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


def test_what_users_copy_imports_public_names_only() -> None:
    public = {"bakeoff", "bakeoff.algos", "bakeoff.envs", "bakeoff.reports", "bakeoff.testing"}
    shown = [ROOT / "README.md", *(ROOT / "examples").rglob("*.py"), *(ROOT / "src").rglob("*.template")]
    found = {(file.name, name) for file in shown for name in FROM.findall(file.read_text(encoding="utf-8"))}
    assert len(found) > 5
    assert {(file, name) for file, name in found if name not in public} == set()
