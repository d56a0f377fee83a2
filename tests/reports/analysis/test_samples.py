"""Answers colored token by token: nothing of the text is lost, whatever the store says."""

import re

import numpy as np
import pytest

from bakeoff.reports.analysis.samples import _fold_tokens, level_of, split_tokens
from bakeoff.reports.page.html import colored
from bakeoff.text import repetition


def plain(tokens):
    return "".join(token.text for token in tokens if not token.special)


def test_levels_are_factors_of_probability():
    ratios = [0.0, 0.19, 0.2, 0.7, 1.5, 9.0, -0.3, -0.71, -3.0, np.nan]
    assert [level_of(ratio) for ratio in ratios] == [0, 0, 1, 2, 3, 3, -1, -2, -3, 0]


def test_tokens_cover_the_text():
    tokens = split_tokens(" a fine film", [" a", " fi", "", "ne", "</s>"], [0.1, 2.0, 0.3, -0.5, 1.0])
    assert [(token.text, token.level, token.special) for token in tokens] == [
        (" a", 0, False), (" fi", 3, False), ("ne", -1, False), ("</s>", 2, True), (" film", 0, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pieces", "ratios"),
    [(None, None), (["a"], None), (["a"], [1.0, 2.0]), ("ab", [1.0, 1.0])],
)
def test_without_ratios_there_is_nothing_to_color(pieces, ratios):
    assert split_tokens("ab", pieces, ratios) == []


def test_pieces_of_another_text_change_nothing():
    tokens = split_tokens("ab", ["x" * 99, "y", 3, "a"], [1.0, 1.0, 1.0, None])
    assert plain(tokens) == "ab"
    assert len(split_tokens("ab", ["z"] * 1000, [1.0] * 1000)) == 9


def test_cuts_fall_where_those_of_the_plain_text_fall():
    tokens = split_tokens("abc\x00defg", ["abc\x00", "defg", "</s>"], [1.0, -1.0, 0.0])
    shown, rest = _fold_tokens(tokens, 5, 12)
    assert plain(shown) == "abc⟨U"
    assert plain(rest) == "+0000⟩d"
    assert rest[-1].special


def test_colored_text_is_escaped():
    html = colored(split_tokens("<b>\u202e&", ["<b>", "\u202e", "&", '<i "'], [2.0, 0.3, 0.0, -2.0]))
    assert html == (
        '<span class="u3" title="+2.00">&lt;b&gt;</span><span class="u1" title="+0.30">⟨U+202E⟩</span>&amp;'
        '<span class="d3" title="-2.00"><span class="end">&lt;i &#34;</span></span>'
    )


def test_the_page_colors_tokens(report):
    html = (report / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<span class="u3" title="\+3\.00">', html)
    assert '<span class="d3" title="-3.00">&lt;sc</span>' in html


def test_repetition_by_hand():
    assert repetition("a b a b") == pytest.approx(1 / 3)  # ab comes twice among three pairs
    assert repetition("one") == repetition("") == 0
