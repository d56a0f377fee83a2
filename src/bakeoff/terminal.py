"""Text from a model or a plugin on its way to a terminal: it must not be able to steer it."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """The text without control, format (bidirectional overrides among them) and lone surrogate characters.

    Tabs and line feeds stay; each character that goes leaves a replacement character, so nothing vanishes unseen.
    """
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "\ufffd" for c in text)
