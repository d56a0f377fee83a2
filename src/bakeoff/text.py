"""Small helpers on text for both sides of the import rule: environments and algorithms, and the reports."""

from __future__ import annotations

import unicodedata


def printable(text: str, keep: str = "\n\t") -> str:
    """The text with every character escaped that could steer a terminal: model text and plugin messages are untrusted.

    Escaped are control, format (bidirectional overrides among them), line separator and lone surrogate characters.

    Args:
        text: any text.
        keep: control characters that stay as they are; none of them keeps the text on one line.
    """
    return "".join(c if c in keep or unicodedata.category(c) not in _UNSAFE else _escaped(c) for c in text)


_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def repetition(text: str, n: int = 2) -> float:
    """Share of the text's n-grams of words that it has had before, 1 - distinct/all; 0 for fewer than n words.

    Seq-rep-n of Welleck et al. 2020. Words are separated by whitespace.
    """
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All n-grams of the text's words, in order."""
    words = text.split()
    return list(zip(*(words[start:] for start in range(n)), strict=False))
