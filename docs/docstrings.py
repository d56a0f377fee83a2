"""Extension of the API pages: the Sphinx markup that our docstrings use becomes Markdown when a page is built."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([^`]+)`")
_LITERAL_BLOCK = re.compile(r"(?m)^([^\n]*?)::$")


class SphinxMarkup(griffe.Extension):
    """``:class:`a.b.C``` becomes ``C`` in code font, and a line that ends in ``::`` ends in one colon."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """The docstring in Markdown; an indented block after ``::`` is a code block there too."""
    text = _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", docstring)
    return _LITERAL_BLOCK.sub(lambda line: f"{line[1]}:" if line[1].strip() else "", text)
