"""Gathers everything that the page shows; the template only places it. Every string is escaped on output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from bakeoff.reports.analysis.chains import ChainView, chain_views
from bakeoff.reports.analysis.measures import MeasureTable, measure_table
from bakeoff.reports.analysis.samples import PromptCard, prompt_cards
from bakeoff.reports.analysis.verdict import SCORE_NAMES, TaskAnswer, answers, caveats, settings_of
from bakeoff.reports.data.text import count, number, one_line, slug
from bakeoff.reports.page.provenance import CellView, cell_views, run_view
from bakeoff.reports.page.sections import Section, SectionMaker, sections
from bakeoff.reports.statistics.coverage import COVERAGE
from bakeoff.reports.statistics.findings import comparisons
from bakeoff.reports.statistics.head_to_head import head_to_head
from bakeoff.reports.statistics.leaderboard import leaderboard, over_tasks, records

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


@dataclass(frozen=True)
class FigureView:
    """One figure of the page."""

    kind: str
    title: str
    caption: str
    file: str
    """Relative to the report's folder."""
    svg: Markup
    """Inline and theme-aware; built by us, with model text escaped by matplotlib."""


@dataclass(frozen=True)
class PairwiseTable:
    """Every contestant against every other on the same prompts."""

    judge: str
    rows: Sequence[Mapping[str, Any]]
    """label, rating, rate over all others, games; best rating first."""


@dataclass(frozen=True)
class TaskView:
    """One task's part of the page."""

    name: str
    anchor: str
    answer: TaskAnswer
    facts: Sequence[tuple[str, str]]
    metric: str
    rows: Sequence[Mapping[str, Any]]
    """Leaderboard rows as dicts, with ``color``, ``interval_bar`` (positions in percent) and formatted columns."""
    columns: Sequence[str]
    """What was measured beside the score."""
    costs: Sequence[str]
    """Meters that some contestant used."""
    versus: Sequence[Mapping[str, Any]]
    pairwise: PairwiseTable | None
    cards: Sequence[PromptCard]
    sections: Sequence[Section] = field(default_factory=tuple)
    figures: Sequence[FigureView] = field(default_factory=tuple)
    chains: Sequence[ChainView] = field(default_factory=tuple)
    """What contestants wrote during training."""
    measures: MeasureTable = field(default_factory=lambda: MeasureTable([], []))
    """The task's further judges."""


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    description: str
    tasks: Sequence[TaskView]
    caveats: Sequence[str]
    over_tasks: Sequence[Mapping[str, Any]]
    board: pd.DataFrame
    runs: Sequence[Mapping[str, Any]]
    cells: Mapping[str, Sequence[CellView]]
    """By the anchor of their task and contestant, which table rows link to."""
    unfinished: Sequence[CellView]
    completion: str
    """How many of the planned cells are in the averages, a sentence."""
    coverage: Mapping[int, float]


COLUMN_TITLES = {
    "proxy": "proxy",
    "gold": "gold",
    "kl": "KL",
    "win_rate": "win rate",
    "length": "length",
}
"""Detail columns of the leaderboard in order, where they have numbers."""
COST_TITLES = {
    "reward_queries": "reward queries",
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
    "seconds": "seconds",
    "queries_per_answer": "queries per answer at inference",
}
"""Columns of the cost table."""
COST_NOTE = (
    "Mean over seeds of one run; evaluation is not included. Trained tokens: each completion with its prompt, for every pass "
    "with gradients. Generated tokens include a critic's texts and one token per judgment of it. What is read without "
    "gradients (prompts, rewards, the reference, a critic's questions) is in the seconds only."
)


def build_page(
    results: RunData,
    figures: Mapping[str, Sequence[FigureView]],
    colors: Mapping[str, str],
    folder: Path,
    makers: Sequence[SectionMaker] = (),
) -> Page:
    """Gather the page.

    Args:
        results: what was read.
        figures: figures by task.
        colors: CSS color of each contestant.
        folder: where the report will lie, for links to the files behind its numbers.
        makers: makers of the sections that only some tasks have.
    """
    board = leaderboard(results)
    tasks = [
        _task_view(results, answer, board[board["task"] == answer.task], figures.get(answer.task, ()), colors, makers)
        for answer in answers(results, board)
    ]
    cells = cell_views(results, folder)
    grouped: dict[str, list[CellView]] = {}
    for cell in cells:
        grouped.setdefault(cells_anchor(results, cell.task, cell.label), []).append(cell)
    suites = [run.manifest.get("suite") for run in results.runs]
    descriptions = [str(suite.get("description") or "") for suite in suites if isinstance(suite, dict)]
    names = [str(suite.get("name")) if isinstance(suite, dict) and suite.get("name") else "" for suite in suites]
    return Page(
        title=", ".join(dict.fromkeys(name or run.name for name, run in zip(names, results.runs, strict=True))),
        description=" ".join(dict.fromkeys(filter(None, descriptions))),
        tasks=tasks,
        caveats=caveats(results),
        over_tasks=records(over_tasks(results)),
        board=board,
        runs=[run_view(results, index) for index in range(len(results.runs))],
        cells=grouped,
        unfinished=[cell for cell in cells if cell.status != "done"],
        completion=_completion(cells),
        coverage=COVERAGE,
    )


def _task_view(
    results: RunData,
    answer: TaskAnswer,
    board: pd.DataFrame,
    figures: Sequence[FigureView],
    colors: Mapping[str, str],
    makers: Sequence[SectionMaker],
) -> TaskView:
    columns = [name for name in COLUMN_TITLES if name in board and board[name].notna().any()]
    costs = [name for name in COST_TITLES if name in board and float(board[name].max()) > 0]
    ends = (
        board[["mean", "mean_low", "mean_high"]].to_numpy(dtype=np.float64) if "mean_low" in board else np.empty((0, 3))
    )
    finite = ends[np.isfinite(ends)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    rows = []
    for record in records(board):
        row = dict(record)
        row["color"] = colors.get(str(record["label"]), "currentColor")
        row["anchor"] = cells_anchor(results, answer.task, str(record["label"]))
        row["settings"] = _settings_text(results, str(record["label"]))
        row["cells"] = {name: number(record[name]) for name in columns}
        row["costs"] = {name: count(record[name]) for name in costs}
        row["interval_bar"] = _interval_bar(record, low, high)
        rows.append(row)
    versus = comparisons(results, answer.task)
    return TaskView(
        name=answer.task,
        anchor="task-" + slug(answer.task),
        answer=answer,
        facts=_facts(results.tasks.get(answer.task, {})),
        metric=SCORE_NAMES.get(results.primary_metric(answer.task), results.primary_metric(answer.task)),
        rows=rows,
        columns=columns,
        costs=costs,
        versus=records(versus),
        pairwise=_pairwise(results, answer.task),
        cards=prompt_cards(results, answer.task),
        sections=sections(results, answer.task, makers),
        figures=figures,
        chains=chain_views(results, answer.task),
        measures=measure_table(results, answer.task),
    )


def _completion(cells: Sequence[CellView]) -> str:
    planned, missing = len(cells), sum(cell.status != "done" for cell in cells)
    if missing == 0:
        return "The planned cell has finished." if planned == 1 else f"All {planned} planned cells have finished."
    of = f"{missing} of {planned} planned {'cell' if planned == 1 else 'cells'}"
    return f"{of} {'is' if missing == 1 else 'are'} in no average:"


def cells_anchor(results: RunData, task: str, label: str) -> str:
    """Anchor of a contestant's cells: by number, because names may differ only in characters that an id cannot hold."""
    return f"cells-{results.task_names().index(task)}-{results.labels().index(label)}"


def _pairwise(results: RunData, task: str) -> PairwiseTable | None:
    found = head_to_head(results, task)
    if found is None:
        return None
    rows = [
        {"label": label, "rating": float(rating), "rate": rate, "games": games}
        for label, rating, (rate, games) in zip(found.labels, found.ratings, found.overall(), strict=True)
    ]
    return PairwiseTable(found.judge, rows)


def _interval_bar(record: Mapping[str, Any], low: float, high: float) -> dict[str, float] | None:
    """Mean and interval as percent of the task's range, for a small chart in the table."""
    span = high - low or 1.0
    mean = float(record.get("mean", np.nan))
    if not np.isfinite(mean):
        return None
    left, right = (float(record.get(key, np.nan)) for key in ("mean_low", "mean_high"))
    left, right = (left if np.isfinite(left) else mean), (right if np.isfinite(right) else mean)
    return {
        key: round(4 + 92 * (value - low) / span, 2)
        for key, value in (("mean", mean), ("left", left), ("right", right))
    }


def _settings_text(results: RunData, label: str) -> str:
    """Settings beyond the defaults, and what the run noted about the contestant."""
    settings = settings_of(results, label)
    parts = []
    if settings is not None and label not in results.untrained:
        own = ", ".join(f"{key} = {value}" for key, value in settings.items())
        parts.append(one_line(own, 120) or "default settings")
    notes = [note for entry in results.entries if entry.label == label for note in _notes(entry.cell.config)]
    return "; ".join([*parts, *(one_line(note, 120) for note in dict.fromkeys(notes))])


def _notes(config: Mapping[str, Any]) -> list[str]:
    notes = config.get("notes")
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _facts(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    titles = {
        "model": "model",
        "parameters": "parameters",
        "proxy": "reward that is optimized (proxy)",
        "gold": "gold reward (seen by no contestant)",
        "kl_coef": "β (KL coefficient)",
        "max_new_tokens": "longest completion",
        "j_reference": "objective of the reference",
        "j_optimum": "best possible objective",
    }
    facts = []
    for key, title in titles.items():
        value = info.get(key)
        if value is None or isinstance(value, dict | list):
            continue
        facts.append((title, _fact(key, value)))
    return facts


def _fact(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return one_line(str(value))
    if key == "parameters":
        return count(value)
    rounded = 0.0 if abs(value) < 1e-12 else value  # rounding of an exact zero
    return f"{rounded:.4g}" + (" tokens" if key == "max_new_tokens" else "")
