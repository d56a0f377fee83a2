"""Writes docs/names.md from the tables that answer unknown names: `python docs/generate_names.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bakeoff.names import PAGES, RENAMED, Named

PAGE = Path(__file__).with_name("names.md")

HEAD = """# Names in other libraries

Made from the code by `python docs/generate_names.py`; a test checks that it is up to date. A name from the left column
that is not a setting here is answered with the one in the middle. A name that both sides use keeps its meaning here:
`beta` is the loss's own in `dpo`, `online_dpo`, `simpo`, `kto` and `trl_dpo`, and `kl_coef` elsewhere."""


def table(rows: Iterable[Named]) -> str:
    """Names as a table."""
    lines = [
        f"| `{row.theirs}` | `{row.ours}` | {row.libraries} | {row.note} |" for row in rows if row.theirs != row.ours
    ]
    return "\n".join(["| name | here | where from | difference |", "|---|---|---|---|", *lines])


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for heading, rows in PAGES.items():
        parts += [f"## {heading}", table(rows)]
    renamed = "\n".join(f"| `{old}` | `{new}` |" for old, new in RENAMED.items())
    parts += ["## Registered names and labels", f"| name | here |\n|---|---|\n{renamed}"]
    parts += ["British spellings are answered with the American one, such as `normalise` with `normalize`."]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
