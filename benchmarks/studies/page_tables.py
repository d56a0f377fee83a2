"""Tables in docs that a study makes: everything between two marks of a page is replaced."""

from __future__ import annotations

from collections.abc import Sequence


def marks(script: str) -> tuple[str, str]:
    """The comments before and after what a script of this folder makes."""
    return f"<!-- made by benchmarks/studies/{script} -->", "<!-- end of what it made -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [list(head), *rows]
    texts = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([texts[0], "|" + " --- |" * len(head), *texts[1:]])


def with_table(page: str, script: str, content: str) -> str:
    """The page with what the script made before replaced."""
    begin, end = marks(script)
    before, rest = page.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"
