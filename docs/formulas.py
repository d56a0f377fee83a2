"""MkDocs hook: formulas become MathML when the site is built, so that no page needs a script or a server for them."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """A page's HTML with MathML instead of each formula that the extension ``arithmatex`` has marked."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    kind, formula = found.groups()
    display = "block" if kind == "div" else "inline"
    mathml = convert(html.unescape(formula).replace(r"\_", "_"), display=display)
    return f'<div style="overflow-x:auto">{mathml}</div>' if kind == "div" else mathml
