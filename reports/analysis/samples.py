"""Answers of every contestant to the same prompts, side by side, each token colored by its log-ratio to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bakeoff.reports.data.text import Folded, fold, visible
from bakeoff.reports.statistics.head_to_head import reference_samples
from bakeoff.text import repetition

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

LEVELS = (0.2, 0.7, 1.5)
"""Log-ratios in nats (factors of 1.2, 2 and 4.5) from which a token is colored faintly, clearly, strongly."""
ANSWERS = 600
"""Most answers on a page, for any number of contestants and tasks."""
CHARACTERS = 1_000_000
"""Most characters of answers on a page."""
_ALL = 1 << 40


class Token(NamedTuple):
    """A stretch of an answer."""

    text: str
    level: int
    """-3 to 3: far less likely than under the reference to far likelier; 0: about as likely, or unknown."""
    ratio: float
    """The log-ratio itself; NaN where unknown."""
    special: bool
    """A token without text, such as the end of sequence."""


@dataclass(frozen=True)
class Answer:
    """What one contestant answered to a prompt."""

    label: str
    text: Folded
    proxy: float
    gold: float
    kl: float
    length: float
    shown: Sequence[Token] = ()
    """``text.shown`` token by token; empty where the store has no tokens."""
    rest: Sequence[Token] = ()
    """``text.rest`` token by token."""
    suspicion: float = np.nan
    """How much it looks like reward hacking, see :func:`_suspicion`."""


@dataclass(frozen=True)
class PromptCard:
    """One prompt and all contestants' answers."""

    prompt: Folded
    answers: Sequence[Answer]
    gain: float
    """The largest proxy gain of a contestant over the reference's answer; NaN where unknown."""
    kl: float
    """The largest KL of an answer to the reference."""
    suspicion: float
    """The largest suspicion of an answer; NaN where unknown."""

    @property
    def colored(self) -> bool:
        """Some answer has tokens."""
        return any(answer.shown for answer in self.answers)


def prompt_cards(results: RunData, task: str) -> list[PromptCard]:
    """The first prompts by index (never picked by outcome) with the final answer of each contestant's lowest finished
    seed.

    The reference's answer comes first: from the first evaluation, when policies were untrained, or from the stored
    ``reference_completion``.
    """
    rows = results.end_samples
    rows = rows[rows["task"] == task]
    if rows.empty:
        return []
    columns = sum(len(results.labels(name)) + 1 for name in results.task_names())
    most = min(rows["prompt_index"].nunique(dropna=False), max(4, min(64, ANSWERS // columns)))
    kept = max(480, min(4000, CHARACTERS // (most * columns)))
    scale = _scale(results, task)
    rows = rows.sort_values(["prompt_index", "seed"], kind="stable")
    lasts = rows.groupby(["run", "label", "seed"], observed=True)["step"].transform("max")
    final = rows[rows["step"] == lasts]
    cards = []
    for _, group in final.groupby("prompt_index", sort=True, dropna=False):
        prompt = group["prompt"].iloc[0]
        group = group[group["prompt"] == prompt]
        answers = _answers(results, task, group, kept)
        known_reference = any(answer.label in results.untrained for answer in answers)
        reference = None if known_reference else _reference(rows, lasts, group, prompt, kept)
        answers.sort(key=lambda answer: answer.label not in results.untrained)  # the reference first
        known = [answer.proxy for answer in answers if np.isfinite(answer.proxy)]
        base = reference if reference is not None else answers[0] if known_reference else None
        gain = max(known) - base.proxy if known and base is not None and np.isfinite(base.proxy) else np.nan
        if base is not None:
            answers = [replace(answer, suspicion=_suspicion(answer, base, scale)) for answer in answers]
        shown = [reference, *answers] if reference is not None else answers
        cards.append(
            PromptCard(
                fold(visible(str(prompt)), 300),
                shown,
                gain,
                _largest(answer.kl for answer in answers),
                _largest(answer.suspicion for answer in answers),
            )
        )
        if len(cards) == most:
            break
    return cards


def _largest(values: Any) -> float:
    return max((value for value in values if np.isfinite(value)), default=np.nan)


def _answers(results: RunData, task: str, group: pd.DataFrame, kept: int) -> list[Answer]:
    found = []
    for label in results.labels(task):
        mine = group[group["label"] == label]
        if len(mine):
            found.append(_answer(label, mine.iloc[0], kept))
    return found


def _reference(rows: pd.DataFrame, lasts: pd.Series, group: pd.DataFrame, prompt: Any, kept: int) -> Answer | None:
    start = rows[(rows["prompt"] == prompt) & (rows["step"] < lasts) & (rows["kl"].fillna(0).abs() < 1e-4)]
    if len(start):
        return _answer("reference (before training)", start.iloc[0], kept)
    if "reference_completion" in group and group["reference_completion"].notna().any():
        text = str(group["reference_completion"].dropna().iloc[0])
        return Answer("reference", fold(visible(text), kept=kept), np.nan, np.nan, 0.0, np.nan)
    return None


def _answer(label: str, row: pd.Series, kept: int) -> Answer:
    numbers = {name: _float(row.get(name)) for name in ("proxy", "gold", "kl", "length")}
    completion = str(row["completion"])
    text = fold(visible(completion), kept=kept)
    tokens = split_tokens(completion, row.get("tokens"), row.get("log_ratios"))
    end = len(text.shown) + len(text.rest)
    shown, rest = _fold_tokens(tokens, len(text.shown) if text.rest else _ALL, end if text.left_out else _ALL)
    return Answer(label, text, **numbers, shown=shown, rest=rest)


def split_tokens(completion: str, pieces: Any, ratios: Any) -> list[Token]:
    """A completion as the store's tokens; only special tokens are added, nothing is lost. Empty where ratios are not stored.

    What the store says is not trusted: a piece that does not come next in the text is shown as a special token, and text
    that no piece covers follows at the end, without color.
    """
    if not isinstance(pieces, list) or not isinstance(ratios, list) or len(pieces) != len(ratios):
        return []
    tokens, at, special = [], 0, 0
    for piece, ratio in zip(pieces, ratios, strict=True):
        if not isinstance(piece, str) or not piece:
            continue
        value = _float(ratio)
        inside = completion.startswith(piece, at)
        if not inside:
            special += 1
            if special > 8 or len(piece) > 40:
                continue  # these are no tokens of this text
        tokens.append(Token(piece, level_of(value), value, special=not inside))
        at += len(piece) if inside else 0
    if at < len(completion):
        tokens.append(Token(completion[at:], 0, np.nan, special=False))
    return tokens


def level_of(ratio: float) -> int:
    """-3 to 3, by the steps of :data:`LEVELS`; 0 where the ratio is unknown."""
    if not np.isfinite(ratio):
        return 0
    return int(np.sign(ratio)) * sum(abs(ratio) >= step for step in LEVELS)


def _fold_tokens(tokens: Sequence[Token], shown: int, kept: int) -> tuple[list[Token], list[Token]]:
    """The same cuts as the plain text's: what shows at once, and what a click unfolds; characters count as they show."""
    parts: tuple[list[Token], list[Token]] = ([], [])
    at = 0
    for token in tokens:
        text = visible(token.text)
        if token.special:
            parts[0 if at <= shown else 1].append(token)
            continue
        for part, start, end in ((parts[0], 0, shown), (parts[1], shown, kept)):
            piece = text[max(0, start - at) : max(0, end - at)]
            if piece:
                part.append(token._replace(text=piece))
        at += len(text)
    return parts


class _Scale(NamedTuple):
    """Standard deviations of the reference's own scores; NaN where unknown or zero."""

    proxy: float
    gold: float


def _scale(results: RunData, task: str) -> _Scale:
    start = reference_samples(results, task)
    spread = {name: start[name].astype(float).std() if name in start else np.nan for name in ("proxy", "gold")}
    return _Scale(*(float(value) if value and value > 0 else np.nan for value in (spread["proxy"], spread["gold"])))


def _suspicion(answer: Answer, reference: Answer, scale: _Scale) -> float:
    """What the proxy gained beyond what gold gained, each in standard deviations of the reference's scores.

    Without a gold reward: by how much the share of repeated word pairs rose, where the proxy gained at all.
    """
    gained = answer.proxy - reference.proxy
    beyond = gained / scale.proxy - (answer.gold - reference.gold) / scale.gold
    if np.isfinite(beyond):
        return float(beyond)
    if not np.isfinite(gained):
        return np.nan
    if gained <= 0:
        return 0.0
    return repetition(answer.text.shown + answer.text.rest) - repetition(reference.text.shown + reference.text.rest)


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else float("nan")
