"""Texts that algorithms wrote during training (``records.jsonl``): chains of critique and revision, choices between pairs, and how
good the critic was.

Everything is compared with a control: a revision with a second answer to the same prompt, a choice with the score of the task's
judge. Intervals are over prompts, because chains of one prompt are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bakeoff.reports.data.text import Folded, fold, number, visible

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

MOST_CARDS = 4
AT_CHANCE, MANY_FLIPS, MUCH_BIAS, MANY_EMPTY, FEW_REVISED = 0.05, 0.25, 0.1, 0.1, 0.5
"""Where a critic is called undecided, dependent on order, biased to a place, silent, or without effect."""


@dataclass(frozen=True)
class ChainCard:
    """One chain: the response, and what each round made of it."""

    prompt: Folded
    response: Folded
    score: float
    """The judge's score of the response; NaN where unknown."""
    rounds: Sequence[tuple[str, Folded, Folded, float]]
    """Principle, critique, revision, and the judge's score of it."""


@dataclass(frozen=True)
class ChainView:
    """One contestant's chains and choices on one task."""

    label: str
    judge: str
    """The judge that critic and revisions are compared with; empty where there is none."""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    """A table: each kind of text under each judge."""
    facts: Sequence[str]
    """What was measured, in sentences."""
    warnings: Sequence[str]
    """Faults of the critic."""
    cards: Sequence[ChainCard]


def chain_views(results: RunData, task: str) -> list[ChainView]:
    """One view for each contestant that wrote any, over its finished seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    queries: dict[str, float] = {}
    for entry in results.entries:
        if entry.task == task and entry.cell.status == "done":
            rows = list(entry.cell.records())
            found.setdefault(entry.label, []).extend(rows)
            if rows and entry.cell.evaluations:
                spent = float(entry.cell.evaluations[-1].get("reward_queries", np.nan))
                queries[entry.label] = max(queries.get(entry.label, 0.0), spent)
    return [_view(label, rows, queries.get(label, np.nan)) for label, rows in found.items() if rows]


def _view(label: str, rows: Sequence[Mapping[str, Any]], queries: float) -> ChainView:
    chains = [row for row in rows if row.get("kind") == "chain"]
    choices = [row for row in rows if row.get("kind") == "choice"]
    known = {name for row in rows for name in _mapping(row, "scores")}
    judge = next((name for name in ("gold", "proxy") if name in known), "")
    names = list(dict.fromkeys(name for row in chains for name in _mapping(row, "texts")))
    judges = sorted(known, key=lambda name: (name != judge, name))
    table = [[name.replace("_", " "), *(_cell(chains, one, name) for one in judges)] for name in names]
    facts, warnings = [f"Reward queries during training: {number(queries, 0)}."], list[str]()
    for part, given in ((_revisions, chains), (_critique, chains), (_choices, choices), (_order, choices)):
        if given:
            more, bad = part(given, judge)
            facts, warnings = [*facts, *more], [*warnings, *bad]
    head = ["text", *judges]
    return ChainView(label, judge, head, table, facts, warnings, [_card(row, judge) for row in _spread(chains)])


# ---------------------------------------------------------------- what is measured


def _revisions(chains: Sequence[Mapping[str, Any]], judge: str) -> tuple[list[str], list[str]]:
    facts, warnings = [], []
    rounds = max((len(_rounds(row)) for row in chains), default=0)
    for k in range(rounds):
        changed = [_changed(row, k) for row in chains if len(_rounds(row)) > k]
        share = sum(changed) / len(changed)
        facts.append(f"Round {k + 1}: {share:.0%} of the revisions differ from the text before them.")
        if share < FEW_REVISED:
            warnings.append(f"Round {k + 1} leaves {1 - share:.0%} of the texts as they were.")
    critiques = [str(one.get("critique", "")).strip() for row in chains for one in _rounds(row)]
    empty = sum(not text for text in critiques) / max(1, len(critiques))
    if empty > MANY_EMPTY:
        warnings.append(f"{empty:.0%} of the critiques are empty.")
    last = f"revision_{rounds}"
    if judge and rounds:
        gain = _by_prompt(chains, lambda row: _score(row, judge, last) - _score(row, judge, "resampled"))
        if np.isfinite(gain[0]):
            facts.append(f"The last revision compared with a second answer, {judge}: {_with_error(*gain)}.")
        low = [row for row in chains if _score(row, judge, "response") < _middle(chains, judge)]
        revised = _by_prompt(low, lambda row: _score(row, judge, last) - _score(row, judge, "response"))
        again = _by_prompt(low, lambda row: _score(row, judge, "resampled") - _score(row, judge, "response"))
        if np.isfinite(again[0]) and np.isfinite(revised[0]):
            facts.append(
                f"On responses below the median a revision gains {_with_error(*revised)}, a second answer "
                f"{_with_error(*again)}."
            )
        if np.isfinite(gain[0]) and gain[0] - 2 * gain[1] < 0:
            warnings.append("Revisions do not beat a second answer by two standard errors.")
    own = [float(row["revision_preferred"]) for row in chains if isinstance(row.get("revision_preferred"), float)]
    if own:
        facts.append(
            f"The critic itself gives the last revision a probability of {np.mean(own):.2f} of being the better one."
        )
    return facts, warnings


def _critique(chains: Sequence[Mapping[str, Any]], judge: str) -> tuple[list[str], list[str]]:
    """Verdict scores against the sign of the judge's score, as the area under the ROC curve."""
    pairs = [(row.get("verdict_score"), _score(row, judge, "response")) for row in chains]
    known = [(float(v), s) for v, s in pairs if isinstance(v, int | float) and np.isfinite(s) and s != 0]
    good, bad = [v for v, s in known if s > 0], [v for v, s in known if s < 0]
    if min(len(good), len(bad)) < 5:
        return [], []
    area, error = auc(good, bad)
    found = f"{_with_error(area, error)} (chance 0.5, {len(known)} texts)"
    facts = [f"Verdicts against the sign of {judge}: area under the ROC curve {found}."]
    return facts, ["Verdicts do not agree with the judge beyond chance."] if area - 2 * error < 0.5 else []


def _choices(choices: Sequence[Mapping[str, Any]], judge: str) -> tuple[list[str], list[str]]:
    margins = [abs(float(row["preference"]) - 0.5) for row in choices if isinstance(row.get("preference"), float)]
    facts = []
    if margins:
        pairs = "pair" if len(choices) == 1 else "pairs"
        facts = [f"Choices: {len(choices)} {pairs}, probability {np.mean(margins):.3f} away from one half on average."]
    warnings = (
        ["The critic is undecided: its choices are at chance."] if margins and np.mean(margins) < AT_CHANCE else []
    )

    def right(row: Mapping[str, Any]) -> float:
        first, second = _score(row, judge, "first"), _score(row, judge, "second")
        preference = row.get("preference")
        if not isinstance(preference, float) or first == second or np.isnan(first - second):
            return np.nan
        return float((preference > 0.5) == (first > second)) if preference != 0.5 else 0.5

    share = _by_prompt(choices, right) if judge else (np.nan, np.nan)
    if np.isfinite(share[0]):
        facts.append(f"Choices that agree with {judge}: {_with_error(*share)} (chance 0.5).")
        if share[0] - 2 * share[1] < 0.5:
            warnings.append("Choices do not agree with the judge beyond chance.")
    return facts, warnings


def _order(choices: Sequence[Mapping[str, Any]], judge: str) -> tuple[list[str], list[str]]:
    places = [pair for row in choices for pair in row.get("first_place") or ()]
    if not places:
        return [], []
    both = np.asarray(places, dtype=np.float64)
    bias, flips = float(both.mean()) - 0.5, float(((both[:, 0] > 0.5) == (both[:, 1] > 0.5)).mean())
    facts = [
        f"Position bias {number(bias)} toward the answer shown first; "
        f"swapping the order changes the winner in {flips:.0%} of choices."
    ]
    warnings = []
    if flips > MANY_FLIPS or abs(bias) > MUCH_BIAS:
        warnings.append(
            "Choices depend on the order in which answers are shown; both orders are averaged, so the remaining signal is weak."
        )
    return facts, warnings


def auc(good: Sequence[float], bad: Sequence[float]) -> tuple[float, float]:
    """Probability that a good one has the higher score, a tie one half, and its standard error (Hanley and McNeil 1982)."""
    a, b = np.sort(np.asarray(bad)), np.asarray(good)
    area = float((np.searchsorted(a, b, "left") + np.searchsorted(a, b, "right")).mean() / (2 * len(a)))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    n, m = len(b), len(a)
    variance = (area * (1 - area) + (n - 1) * (first - area**2) + (m - 1) * (second - area**2)) / (n * m)
    return area, float(np.sqrt(max(variance, 0.0)))


def _by_prompt(rows: Iterable[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]) -> tuple[float, float]:
    """Mean over prompts of the mean over a prompt's rows, and its standard error."""
    groups: dict[Any, list[float]] = {}
    for row in rows:
        found = value(row)
        if np.isfinite(found):
            groups.setdefault(row.get("prompt_index"), []).append(found)
    means = np.asarray([np.mean(group) for group in groups.values()])
    if len(means) < 2:
        return np.nan, np.nan
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


# ---------------------------------------------------------------- what is shown


def _cell(chains: Sequence[Mapping[str, Any]], judge: str, name: str) -> str:
    mean, error = _by_prompt(chains, lambda row: _score(row, judge, name))
    return _with_error(mean, error) if np.isfinite(mean) else "–"


def _with_error(mean: float, error: float) -> str:
    return f"{number(mean)} ± {number(error)}"


def _spread(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A few rows, evenly from first to last, never picked by outcome."""
    count = min(MOST_CARDS, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _card(row: Mapping[str, Any], judge: str) -> ChainCard:
    texts = _mapping(row, "texts")
    rounds = [
        (
            str(one.get("principle", "")),
            fold(visible(str(one.get("critique", "")))),
            fold(visible(str(one.get("revision", "")))),
            _score(row, judge, f"revision_{k}"),
        )
        for k, one in enumerate(_rounds(row), 1)
    ]
    prompt, response = fold(visible(str(row.get("prompt", ""))), 300), fold(visible(str(texts.get("response", ""))))
    return ChainCard(prompt, response, _score(row, judge, "response"), rounds)


def _middle(chains: Sequence[Mapping[str, Any]], judge: str) -> float:
    known = [score for row in chains if np.isfinite(score := _score(row, judge, "response"))]
    return float(np.median(known)) if known else np.nan


def _changed(row: Mapping[str, Any], k: int) -> bool:
    rounds, texts = _rounds(row), _mapping(row, "texts")
    before = texts.get("response" if k == 0 else f"revision_{k}", "")
    revision = str(rounds[k].get("revision", ""))
    return bool(revision.strip()) and revision.split() != str(before).split()


def _rounds(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rounds = row.get("rounds")
    return [one for one in rounds if isinstance(one, dict)] if isinstance(rounds, list) else []


def _mapping(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def _score(row: Mapping[str, Any], judge: str, name: str) -> float:
    value = _mapping(_mapping(row, "scores"), judge).get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
