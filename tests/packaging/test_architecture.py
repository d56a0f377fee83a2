"""Imports flow one way: envs, then algos, then benchmarks, then reports beside them."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FROM = re.compile(r"^\s*(?:from|import) (bakeoff(?:\.\w+)*)", re.MULTILINE)
MAY_NOT_IMPORT = {
    "envs": ("bakeoff.algos", "bakeoff.benchmarks", "bakeoff.reports", "bakeoff.api", "bakeoff.cli"),
    "algos": ("bakeoff.benchmarks", "bakeoff.reports", "bakeoff.api", "bakeoff.cli"),
    "benchmarks": ("bakeoff.cli",),
    "reports": ("torch", "transformers", "gymnasium", "bakeoff.envs", "bakeoff.algos", "bakeoff.benchmarks"),
}


def imports_of(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("folder", MAY_NOT_IMPORT)
def test_no_import_goes_against_the_stream(folder: str) -> None:
    against = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in imports_of(file)
        if any(name == banned or name.startswith(banned + ".") for banned in MAY_NOT_IMPORT[folder])
    ]
    assert against == []


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
