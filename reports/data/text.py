"""Model text made safe to show: nothing hidden, nothing that reorders or breaks the page.

Escaping for HTML is the template's job (autoescape); this file deals with what escaping leaves alone: control
characters, bidirectional overrides, invisible characters, lone surrogates and endless lines.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode categories without a glyph of their own: controls, format (bidi, zero width, tags), surrogates, separators."""
_KEPT = {"\n", "\t", "\u200d"}  # zero-width joiner: without it families and flags fall apart into several emoji
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")


def visible(text: str) -> str:
    """The same text with every invisible or reordering character spelled out, e.g. ``⟨U+202E⟩``.

    Lone surrogates become the replacement character, Windows line ends plain ones. Ordinary text of any script comes
    back unchanged.
    """
    text = text.replace("\r\n", "\n")
    return _SUSPECT.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    char = match.group()
    if char in _KEPT:
        return char
    category = unicodedata.category(char)
    if category == "Cs":
        return "\ufffd"
    if category in _HIDDEN_CATEGORIES:
        return f"⟨U+{ord(char):04X}⟩"
    return char


class Folded(NamedTuple):
    """A text cut for display."""

    shown: str
    """What the page shows at once."""
    rest: str
    """What a click unfolds; empty when all is shown."""
    left_out: int
    """Characters that are only in the run folder."""


def fold(text: str, shown: int = 480, kept: int = 4000) -> Folded:
    """Cut a text after ``shown`` characters, keep up to ``kept`` in all, and count what is left out."""
    if len(text) <= shown:
        return Folded(text, "", 0)
    return Folded(text[:shown], text[shown:kept], max(0, len(text) - kept))


def one_line(text: str, limit: int = 200) -> str:
    """The text on one line, cut with an ellipsis: for errors and labels in tables."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def number(value: float | None, digits: int = 3) -> str:
    """A number for readers: about ``digits`` significant digits, thousands grouped, a true minus sign, ``–`` for none.

    Numbers below 10 keep ``digits`` decimals, so that a column lines up, unless they would be 0 then.
    """
    if value is None or value != value:
        return "–"
    value = 0.0 if abs(value) < 1e-12 else value  # rounding of an exact zero
    size = abs(value)
    if size == float("inf"):
        text = "∞"
    elif size >= 1000 or (size >= 10 and float(size).is_integer()):
        text = f"{size:,.0f}"
    elif size >= 100:
        text = f"{size:.1f}"
    elif size >= 10:
        text = f"{size:.2f}"
    elif size == 0 or size >= 10.0**-digits:
        text = f"{size:.{digits}f}"
    elif size >= 0.001:
        text = f"{size:.2g}"
    else:
        text = f"{size:.1e}"
    return ("−" if value < 0 and float(text.replace(",", "").replace("∞", "inf")) != 0 else "") + text


def count(value: float | None) -> str:
    """A count for readers: 950, 12.3k, 4.56M; ``–`` for none."""
    if value is None or value != value:
        return "–"
    rounded = float(f"{value:.3g}")
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= size:
            scaled = rounded / size
            return f"{scaled:.3g}{unit}" if abs(scaled) < 1000 else f"{value / size:,.0f}{unit}"
    return f"{value:.3g}" if abs(value) < 1 or value != int(value) else f"{value:.0f}"


_SLUG_LENGTH = 100
"""File systems take 255 bytes, prefix and ending included."""


def slug(text: str) -> str:
    """A name fit for a file and an anchor: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:_SLUG_LENGTH].strip("._") or "unnamed"
