"""Model text is made visible, never trusted."""

import pytest

from bakeoff.reports.data.text import count, fold, number, one_line, slug, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("日本語 علي é 👩‍👩‍👧", "日本語 علي é 👩‍👩‍👧"),
        ("a\x00b\x1b[0m\x7f", "a⟨U+0000⟩b⟨U+001B⟩[0m⟨U+007F⟩"),
        ("\u202eevil\u2066\u200b\ufeff", "⟨U+202E⟩evil⟨U+2066⟩⟨U+200B⟩⟨U+FEFF⟩"),
        ("\ud800", "\ufffd"),
        ("a\r\nb\rc\x85\u2028", "a\nb⟨U+000D⟩c⟨U+0085⟩⟨U+2028⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
    ],
)
def test_hidden_characters_are_spelled_out(text, shown):
    assert visible(text) == shown


def test_long_text_is_folded_and_counted():
    assert fold("abc", shown=3) == ("abc", "", 0)
    assert fold("abcdef", shown=2, kept=5) == ("ab", "cde", 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.96, "0.960"), (-0.5, "−0.500"), (-0.0001, "−1.0e-04"), (12.345, "12.35"), (123.45, "123.5"), (20.0, "20"),
     (1234.5, "1,234"), (0.0, "0.000"), (-0.0, "0.000"), (2e-17, "0.000"), (-1e-13, "0.000"),
     (float("nan"), "–"), (None, "–"), (float("inf"), "∞")],
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert number(value) == text


def test_fewer_digits_do_not_turn_into_powers_of_ten():
    assert [number(value, 1) for value in (0.073, 0.0014, 0.26, 0.0001)] == ["0.073", "0.0014", "0.3", "1.0e-04"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (950, "950"),
        (12_300, "12.3k"),
        (4_560_000, "4.56M"),
        (0.5, "0.5"),
        (None, "–"),
        (999_700, "1M"),
        (999.7, "1k"),
        (999_499, "999k"),
        (999_950_000, "1G"),
        (12.34, "12.3"),
        (1.5e12, "1,500G"),
    ],
)
def test_counts_for_people(value, text):
    assert count(value) == text


def test_names_for_files_and_lines():
    assert slug("ppo [a/b]../x") == "ppo_a_b_.._x"
    assert slug("...") == "unnamed"
    assert one_line("a\n b" + "c" * 10, 6) == "a bcc…"
