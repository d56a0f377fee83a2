"""Messages and pages are in plain English: the field's terms, "per" for a rate, American spelling.

Messages are every string of the code that has a space in it and is no docstring: what our errors raise, and what console, log and
report get, is among them. The rules are those of CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("algos", "envs", "benchmarks", "reports", "src/bakeoff")
DATA = {
    "algos/constitutional/templates.py",  # prompts
    "envs/tasks/harmless/ordinary.py",  # prompts
    "envs/tasks/reviews/openings.py",  # prompts
    "envs/tasks/harmless/measures.py",  # words of refusals
    "benchmarks/speed/models.py",  # prompts
}
GENERATED = {"settings.md", "gallery.md"}
"""Pages that are made from the code."""

_COUNTED = (
    "nats|tokens|quer(?:y|ies)|steps?|seconds|minutes|hours|ms|us|MB|GB|bytes|rows?|lines?|prompts|completions|pairs?|runs|cells|seeds"
    "|folders?|updates|weights|GPUs?|cores?|numbers?|characters|passes|times|tables?|files?|dots?|sentences?|entropy"
    "|length|likelihood|KL|one"
)
_EACH = (
    "tokens?|completion|update|step|prompt|pair|answer|second|minute|hour|day|cell|line|row|seed|query|sequence|batch|minibatch|core|task"
    "|run|state|machine|rollout|evaluation|round|group|head|contestant|figure|page|node|worker|process|text|value|suite|episode|algorithm"
)
_ISED = (
    "normal|optim|regular|token|penal|initial|serial|general|summar|memor|random|minim|maxim|recogn|organ|standard|parallel|quant|vector"
    "|final|visual|critic|anal|util|factor|symbol|local|special|amort|categor|character|emphas|parametr|real|stabil|synchron"
)
HABITS = {
    "a person for the thing": r"\b(?:whoever|nobody|somebody|anybody|everybody)\b(?!')",
    "whatever for the thing": r"\bwhatever (?:is|was|has|had|broke|happens|happened|stands|stood|comes|came|calls|makes|made)\b",
    "in place of: instead of": r"\bin (?:its |their )?place of\b",
    "go on: resume or continue": r"\b(?:goes|go|going|gone|went) on\b",
    "take up: restore": r"\b(?:takes?|took|taken|taking) up\b",
    "tell: report or show": r"\b(?:tells|told)\b(?!(?: \w+)? apart)",
    "ask: call": r"\bask(?:s|ed|ing)? (?:the|its|a|no|of the|for its) (?:own )?(?:rewards?|judges?|proxy|gold)\b",
    "a: per": rf"\b(?:{_COUNTED}) an? (?:{_EACH})\b(?! [\w{{}}]+ at a time)",
    "British spelling": (
        rf"\b(?:{_ISED})(?:y?is|ys)(?:e|ed|es|er|ers|ing|ation|ations)\b|colour|behaviou?r(?<=our)|neighbour|favour|honour"
        r"|\b(?:un)?labell(?:ed|ing)|\bmodell(?:ed|ing)|\bcentre|\bjudgement|\blicence\b|\bcatalogue|\bartefact|\bcancell(?:ed|ing)\b"
    ),
    "an image": (
        r"\b(?:houses?|doors?|luck|lucky|luckily|bury|buried|buries|graves?|neighbors?|arena|dearer?)\b|\bthe dead\b"
        r"|\bprices? of (?:a nat|KL)\b|\bwhat (?:came of|a seed cost)|\blikes it or not\b|\bplays whom\b|\bbeats whom\b|\bmeaned\b"
    ),
}


def found(text: str) -> list[str]:
    """The habits in it, each with the words."""
    flat = " ".join(text.split())
    hits = [(habit, hit) for habit, pattern in HABITS.items() for hit in re.finditer(pattern, flat, re.IGNORECASE)]
    return [f"{habit}: ...{flat[max(0, hit.start() - 30) : hit.end() + 30]}..." for habit, hit in hits]


def _spoken(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings below a node with their lines, an f-string as one text; strings that stand alone are docstrings and left out."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        yield node.lineno, "".join(map(str, parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from _spoken(child)


def messages(file: Path) -> list[tuple[int, str]]:
    """Strings of several words in a file of code, but for docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [(line, text) for line, text in _spoken(tree) if " " in text.strip()]


def prose(page: str) -> str:
    """A page without code, formulas and addresses."""
    page = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"\$\$.*?\$\$|`[^`\n]*`|\]\([^)]*\)", " _ ", page, flags=re.DOTALL)
    return re.sub(r"^>.*$", "", page, flags=re.MULTILINE)  # what a model wrote


@pytest.mark.parametrize("folder", CODE)
def test_messages_are_plain_english(folder: str) -> None:
    bad = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if file.is_symlink() or any(part.is_symlink() for part in file.relative_to(ROOT).parents) or name in DATA:
            continue
        bad += [f"{name}:{line}: {hit}" for line, text in messages(file) for hit in found(text)]
    for file in sorted(
        {*(ROOT / folder).rglob("*.html"), *(ROOT / folder).rglob("*.template"), *(ROOT / folder).rglob("*.js")}
    ):
        bad += [f"{file.relative_to(ROOT)}: {hit}" for hit in found(file.read_text(encoding="utf-8"))]
    assert not bad, "\n".join(bad)


def test_help_under_settings_is_plain_english() -> None:
    bad = found(prose((ROOT / "docs" / "settings.md").read_text(encoding="utf-8")))
    assert not bad, "\n".join(bad)


PAGES = [file for file in sorted((ROOT / "docs").rglob("*.md")) if file.name not in GENERATED]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_pages_are_plain_english(page: Path) -> None:
    bad = found(prose(page.read_text(encoding="utf-8")))
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("text", "habits"),
    [
        ("it costs 3 nats a token", 1),
        ("it costs 3 nats per token, a pair at a time", 0),
        ("nobody sees it, whatever the seed", 1),
        ("the cell goes on from its checkpoint", 1),
        ("normalise the behaviour", 2),
        ("it asks the reward in place of the judge", 2),
        ("the batch, a minibatch and one more token", 0),
        ("otherwise a precise analysis of noise, emphasis and basis", 0),
    ],
)
def test_the_rules_find_what_they_should(text: str, habits: int) -> None:
    assert len(found(text)) == habits, found(text)
