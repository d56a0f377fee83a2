"""The part of a task's page that compares contestants at equal KL, at equal cost, and at the checkpoint that gold chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from bakeoff.reports.analysis.equal_terms import Reading, readings
from bakeoff.reports.data.store_reader import METERS
from bakeoff.reports.data.text import count, number
from bakeoff.reports.page.html import environment
from bakeoff.reports.page.markdown import table
from bakeoff.reports.page.page import COST_TITLES
from bakeoff.reports.page.sections import Section

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

TITLE = "At equal KL, cost, gold"
NOTE = (
    "Scores along training, linear between evaluations: means with Student's 95 % intervals over seeds. KLs are the largest that",
    "every learner reached in every seed, and the largest that at least half did; spends the largest that every learner reached",
    "that uses the meter. The best checkpoint is gold's choice on the other seeds. What does not learn has one KL of its own.",
)
"""What stands above the tables in Markdown."""


@dataclass(frozen=True)
class Cell:
    """One reading in words."""

    value: str
    note: str
    """Its interval, or where it was read, or why there is no value."""
    span: int = 1
    """Columns that it stands for: a contestant that does not learn is one point in all columns of a group."""


@dataclass(frozen=True)
class EqualTermsTable:
    """One table: a row per contestant, columns in groups."""

    groups: Sequence[tuple[str, int]]
    """Title of each group of columns, and how many it has."""
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    """Contestant and cells, in the order of the leaderboard."""

    def markdown(self) -> list[str]:
        """The same as Markdown, which has neither groups nor spans."""
        groups = [title for title, width in self.groups for _ in range(width)]
        head = ["contestant", *(f"{group}: {name}" for group, name in zip(groups, self.columns, strict=True))]
        rows = [[label, *(text for cell in cells for text in _texts(cell))] for label, cells in self.rows]
        return table(head, rows)


def equal_terms_section(results: RunData, task: str) -> Section | None:
    """A table of KL and gold, and one of costs; ``None`` where nothing learned."""
    tables = equal_terms_tables(results, task)
    if not tables:
        return None
    html = environment().get_template("equal_terms.html").render(tables=tables)
    return Section(TITLE, Markup(html), [*NOTE, "", *(line for view in tables for line in view.markdown())])


def equal_terms_tables(results: RunData, task: str) -> list[EqualTermsTable]:
    """The readings of :func:`bakeoff.reports.analysis.equal_terms.readings` side by side; two tables, so that they fit a page."""
    found = readings(results, task)
    ranked = {reading.label: reading.value for reading in found if reading.view == "end" and reading.metric != "gold"}
    order = sorted(ranked, key=lambda label: -np.nan_to_num(ranked[label], nan=-np.inf))
    costs = [
        reading for reading in found if reading.view in METERS or (reading.view == "end" and reading.metric != "gold")
    ]
    others = [reading for reading in found if reading not in costs]
    return [view for part in (others, costs) if (view := _table(part, order)) is not None]


def _table(found: Sequence[Reading], order: Sequence[str]) -> EqualTermsTable | None:
    columns: dict[tuple[str, str], dict[str, Reading]] = {}
    for reading in found:
        columns.setdefault(_heads(reading), {})[reading.label] = reading
    # A column in which no learner has a value says nothing: gold's choice at one seed.
    columns = {heads: column for heads, column in columns.items() if any(r.kind == "path" for r in column.values())}
    titles = [title for title, _ in columns]
    groups = [(title, titles.count(title)) for title in dict.fromkeys(titles)]
    if not columns:
        return None
    rows = [(label, _row([column.get(label) for column in columns.values()], groups)) for label in order]
    return EqualTermsTable(groups, [name for _, name in columns], rows)


def _heads(reading: Reading) -> tuple[str, str]:
    """Titles of the group and the column."""
    if reading.metric == "gold" and reading.view in ("end", "best_gold"):
        return "gold", "at the end" if reading.view == "end" else "at its best checkpoint"
    score = reading.metric.replace("_", " ")
    if reading.view == "kl":
        return f"{score} at equal KL", f"KL {number(reading.level)}"
    if reading.view in METERS:
        return f"{score} at equal cost", f"{count(reading.level)} {COST_TITLES[reading.view]}"
    return score, "at the end"


def _row(row: Sequence[Reading | None], groups: Sequence[tuple[str, int]]) -> list[Cell]:
    """A contestant's cells; equal ones of a contestant that does not learn as one."""
    cells: list[Cell] = []
    start = 0
    for _, width in groups:
        group = row[start : start + width]
        made = [_cell(reading) for reading in group]
        one_point = all(reading is not None and reading.kind == "point" for reading in group) and len(set(made)) == 1
        cells += [replace(made[0], span=width)] if one_point else made
        start += width
    return cells


def _texts(cell: Cell) -> list[str]:
    return [f"{cell.value} {cell.note}".strip(), *[""] * (cell.span - 1)]


def _cell(reading: Reading | None) -> Cell:
    if reading is None:
        return Cell("–", "")
    if reading.kind == "one seed":
        return Cell("–", "needs two seeds")
    if reading.kind == "not reached" and reading.view in METERS:
        return Cell("–", "costs more")
    if reading.kind == "not reached":
        some = f" by {reading.seeds - reading.reached} of {reading.seeds} seeds" if reading.reached else ""
        return Cell("–", f"not reached{some}")
    notes = []
    if np.isfinite(reading.low) and reading.high > reading.low:
        notes.append(f"[{number(reading.low)}, {number(reading.high)}]")
    elsewhere = (reading.view == "best_gold" and reading.kind == "path") or (
        reading.view == "kl" and reading.kind == "point"
    )
    if elsewhere and np.isfinite(reading.kl):
        notes.append(f"at KL {number(reading.kl)}")
    return Cell(number(reading.value), " ".join(notes))
