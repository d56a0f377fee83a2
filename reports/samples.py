"""The same prompts answered by every contestant, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bakeoff.reports.text import Folded, fold, visible

if TYPE_CHECKING:
    from bakeoff.reports.results import Results


@dataclass(frozen=True)
class Answer:
    """What one contestant answered to a prompt."""

    label: str
    text: Folded
    proxy: float
    gold: float
    kl: float
    length: float


@dataclass(frozen=True)
class PromptCard:
    """One prompt and everyone's answers."""

    prompt: Folded
    answers: Sequence[Answer]
    gain: float
    """The largest proxy gain of a contestant over the reference's answer; NaN where unknown."""
    kl: float
    """The largest KL of an answer to the reference."""


def prompt_cards(results: Results, task: str, most: int = 8) -> list[PromptCard]:
    """The first prompts by index (never picked by outcome) with the final answer of each contestant's lowest finished
    seed.

    The reference's answer comes first: from the first evaluation, when policies were untrained, or from the stored
    ``reference_completion``.
    """
    rows = results.end_samples
    rows = rows[rows["task"] == task]
    if rows.empty:
        return []
    rows = rows.sort_values(["prompt_index", "seed"], kind="stable")
    lasts = rows.groupby(["run", "label", "seed"], observed=True)["step"].transform("max")
    final = rows[rows["step"] == lasts]
    cards = []
    for _, group in final.groupby("prompt_index", sort=True, dropna=False):
        prompt = group["prompt"].iloc[0]
        group = group[group["prompt"] == prompt]
        answers = _answers(results, task, group)
        known_reference = any(answer.label in results.untrained for answer in answers)
        reference = None if known_reference else _reference(rows, lasts, group, prompt)
        answers.sort(key=lambda answer: answer.label not in results.untrained)  # the reference first
        known = [answer.proxy for answer in answers if np.isfinite(answer.proxy)]
        base = reference.proxy if reference is not None else answers[0].proxy if known_reference else np.nan
        gain = max(known) - base if known and np.isfinite(base) else np.nan
        shown = [reference, *answers] if reference is not None else answers
        kls = [answer.kl for answer in answers if np.isfinite(answer.kl)]
        cards.append(PromptCard(fold(visible(str(prompt)), 300), shown, gain, max(kls, default=np.nan)))
        if len(cards) == most:
            break
    return cards


def _answers(results: Results, task: str, group: pd.DataFrame) -> list[Answer]:
    found = []
    for label in results.labels(task):
        mine = group[group["label"] == label]
        if len(mine):
            found.append(_answer(label, mine.iloc[0]))
    return found


def _reference(rows: pd.DataFrame, lasts: pd.Series, group: pd.DataFrame, prompt: Any) -> Answer | None:
    start = rows[(rows["prompt"] == prompt) & (rows["step"] < lasts) & (rows["kl"].fillna(0).abs() < 1e-4)]
    if len(start):
        return _answer("reference (before training)", start.iloc[0])
    if "reference_completion" in group and group["reference_completion"].notna().any():
        text = str(group["reference_completion"].dropna().iloc[0])
        return Answer("reference", fold(visible(text)), np.nan, np.nan, 0.0, np.nan)
    return None


def _answer(label: str, row: pd.Series) -> Answer:
    numbers = {name: _float(row.get(name)) for name in ("proxy", "gold", "kl", "length")}
    return Answer(label, fold(visible(str(row["completion"]))), **numbers)


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else float("nan")
