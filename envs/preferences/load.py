"""Preference pairs from files, ``datasets`` objects or lists, checked, and split by prompt.

Rows and files are read in :mod:`bakeoff.envs.preferences.formats` and :mod:`bakeoff.envs.preferences.files`; pairs are made
from a policy's own answers in :mod:`bakeoff.algos.preference_data.pair_source`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bakeoff.envs.preferences.files import numbered_rows
from bakeoff.envs.preferences.formats import SIDE_KEY, BadRowError, length_of, pair_of
from bakeoff.envs.preferences.pair import Message, Pairs, PreferencePair, Problem, Prompt, kinds
from bakeoff.errors import PreferenceError

__all__ = [
    "Message",
    "Pairs",
    "PreferencePair",
    "Problem",
    "Prompt",
    "folds_by_prompt",
    "load_pairs",
    "split_by_prompt",
]

MAX_CHARACTERS = 50_000
"""Prompt and answer together; by default a longer pair counts as unusable."""

MAX_BAD_SHARE = 0.05
"""Largest share of unusable rows that :func:`load_pairs` passes over by default."""


def load_pairs(
    source: str | Path | Iterable[Any],
    *,
    max_bad_share: float = MAX_BAD_SHARE,
    max_characters: int = MAX_CHARACTERS,
) -> Pairs:
    """Read and check preference pairs.

    Rows are in one of TRL's formats (``chosen`` and ``rejected``, with ``prompt`` or with the prompt in both; texts or
    conversations), HH-style transcripts among them, or two answers ``response_0`` and ``response_1`` of which
    ``preferred`` (0 or 1) is the better; an optional ``margin`` says by how much.

    Args:
        source: a JSON-lines file, gzipped or not; a ``datasets.Dataset``; or any iterable of mappings or pairs.
        max_bad_share: refuse the source where more than this share of its rows cannot be used.
        max_characters: a pair with a longer prompt and answer cannot be used.

    Raises:
        PreferenceError: no such file, not a file of JSON lines, no usable pair, more unusable rows than allowed, or a
            preference for the same side in every row. It counts every kind of problem and shows the first of each.
    """
    if not 0 <= max_bad_share < 1:
        raise PreferenceError(f"max_bad_share is {max_bad_share}, expected a share from 0 and below 1")
    name, rows = numbered_rows(source)
    pairs: list[PreferencePair] = []
    problems: dict[str, Problem] = {}
    sides: list[int] = []
    total = 0
    for place, row in rows:
        total += 1
        try:
            pair = row if isinstance(row, PreferencePair) else pair_of(row)
            _check(pair, max_characters)
        except BadRowError as bad:
            known = problems.get(bad.kind)
            first = f"{place}: {bad.detail}" if known is None else known.first
            problems[bad.kind] = Problem(1 + (known.count if known else 0), first)
            continue
        pairs.append(pair)
        if isinstance(row, Mapping) and SIDE_KEY in row:
            sides.append(int(row[SIDE_KEY]))
    if total == 0:
        raise PreferenceError(f"{name} is empty; it needs one preference pair per row")
    bad_rows = sum(problem.count for problem in problems.values())
    if not pairs or bad_rows > max_bad_share * total:
        allowed = "" if not pairs else f" (allowed: {max_bad_share:.0%})"
        raise PreferenceError(
            f"{name}: {bad_rows} of {total} rows cannot be used{allowed}: {kinds(problems)}; fix or remove them"
        )
    _check_both_sides_win(sides, name)
    return Pairs(pairs, name, problems)


def folds_by_prompt(pairs: Sequence[PreferencePair], folds: int, seed: int = 0) -> list[int]:
    """The fold of each pair; pairs of one prompt are always together.

    Raises:
        PreferenceError: fewer prompts than folds.
    """
    distinct = list(dict.fromkeys(pair.prompt for pair in pairs))
    if folds < 2 or len(distinct) < folds:
        raise PreferenceError(f"{len(distinct)} prompts cannot be split into {folds} parts; give pairs of more prompts")
    order = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = {distinct[int(index)]: place % folds for place, index in enumerate(order)}
    return [fold_of[pair.prompt] for pair in pairs]


def split_by_prompt(
    pairs: Sequence[PreferencePair], held_out: float = 0.1, seed: int = 0
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Pairs to train on and pairs to judge on; no prompt is in both.

    Args:
        pairs: all of them.
        held_out: which share of the prompts to judge on, between 0 and 1; at least one prompt.
        seed: decides which.

    Raises:
        PreferenceError: a share out of its range, or one prompt only.
    """
    if not 0 < held_out < 1:
        raise PreferenceError(f"the share of prompts to hold out is {held_out}, expected a number between 0 and 1")
    distinct = list(dict.fromkeys(pair.prompt for pair in pairs))
    if len(distinct) < 2:
        raise PreferenceError(
            "all pairs answer one prompt, so none can be held out by prompt; give pairs of others too"
        )
    count = min(max(1, round(held_out * len(distinct))), len(distinct) - 1)
    order = np.random.default_rng(seed).permutation(len(distinct))[:count]
    judged = {distinct[int(index)] for index in order}
    return [p for p in pairs if p.prompt not in judged], [p for p in pairs if p.prompt in judged]


def _check(pair: PreferencePair, max_characters: int) -> None:
    prompt_length = length_of(pair.prompt)
    if not prompt_length:
        raise BadRowError("empty text", "the prompt is empty")
    for side in ("chosen", "rejected"):
        text = getattr(pair, side)
        if not text.strip():
            raise BadRowError("empty text", f"{side} is empty after the prompt")
        if prompt_length + len(text) > max_characters:
            raise BadRowError(
                "too long", f"prompt and {side} have {prompt_length + len(text)} characters of {max_characters}"
            )
    if pair.chosen.strip() == pair.rejected.strip():
        raise BadRowError("identical sides", f"both answers are {_short(pair.chosen)}")


def _check_both_sides_win(sides: Sequence[int], name: str) -> None:
    """Twenty rows that all prefer the same side come about by chance once in half a million times."""
    if len(sides) >= 20 and len(set(sides)) == 1:
        raise PreferenceError(
            f"{name}: all {len(sides)} rows prefer response_{sides[0]}, so the labels say nothing; "
            "check how they were made, or put the answers in random order"
        )


def _short(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
