"""Pages that are made from the code are up to date."""

import importlib.util
import re
from pathlib import Path

import pytest

from bakeoff.benchmarks.spec.validation import load_suite

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("generator", ["generate_settings", "generate_names"])
def test_generated_pages_are_up_to_date(generator: str) -> None:
    spec = importlib.util.spec_from_file_location(generator, DOCS / f"{generator}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), f"run `python docs/{generator}.py`"


def test_the_readme_shows_the_example_that_is_tested() -> None:
    example = (ROOT / "examples" / "sb3_ppo.py").read_text(encoding="utf-8").split("\n\n", 1)[1].strip()
    assert f"```python\n{example}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_pages_say_how_many_cells_a_suite_has() -> None:
    for suite, page in (("overoptimization", "reward-hacking.md"), ("frontier", "preference-optimization.md")):
        cells = len(load_suite(suite).cells())
        assert f"{cells} cells" in (DOCS / page).read_text(encoding="utf-8"), (suite, cells)


def test_the_map_for_contributors_names_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:algos|envs|benchmarks|reports|src|docs|tests|examples)/[^` ]*)`", text)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_api_pages_name_modules_that_exist() -> None:
    named = [
        module
        for page in sorted((DOCS / "api").glob("*.md"))
        for module in re.findall(r"(?m)^::: (.+)$", page.read_text(encoding="utf-8"))
    ]
    assert len(named) > 20
    assert [module for module in named if importlib.util.find_spec(module) is None] == []
