"""Nothing is loaded with the permission to run a model's own code, nor so that transformers asks for it on a terminal."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("algos", "envs", "benchmarks", "reports", "src/bakeoff")
FROM_MEMORY = ("PeftModel",)
"""They take a loaded model, and have no such argument."""


def loading_calls() -> Iterator[tuple[str, ast.Call]]:
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                function = node.func if isinstance(node, ast.Call) else None
                if isinstance(function, ast.Attribute) and function.attr in (
                    "from_pretrained",
                    "from_config",
                    "pipeline",
                ):
                    owner = ast.unparse(function.value)
                    if not owner.endswith(FROM_MEMORY):
                        yield f"{path.relative_to(ROOT)}:{node.lineno} {owner}", node


CALLS = list(loading_calls())


def test_there_are_calls_to_look_at() -> None:
    assert len(CALLS) >= 10


@pytest.mark.parametrize(("place", "call"), CALLS, ids=[place for place, _ in CALLS])
def test_remote_code_is_refused_wherever_something_is_loaded(place: str, call: ast.Call) -> None:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert given.get("trust_remote_code") == "False", f"{place}: pass trust_remote_code=False"
