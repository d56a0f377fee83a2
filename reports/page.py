"""Everything the page shows, gathered; the template only places it. Every string is escaped and made visible on
output.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from bakeoff.reports.chains import ChainView, chain_views
from bakeoff.reports.coverage import COVERAGE
from bakeoff.reports.leaderboard import comparisons, leaderboard, over_tasks, records
from bakeoff.reports.samples import PromptCard, prompt_cards
from bakeoff.reports.text import count, number, one_line, slug, visible
from bakeoff.reports.verdict import SCORE_NAMES, TaskAnswer, answers, caveats, settings_of

if TYPE_CHECKING:
    from bakeoff.reports.results import Results


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
class TaskView:
    """One task's part of the page."""

    name: str
    anchor: str
    answer: TaskAnswer
    facts: Sequence[tuple[str, str]]
    metric: str
    rows: Sequence[Mapping[str, Any]]
    """Leaderboard rows as dicts, with ``color``, ``strip`` (interval positions in percent) and formatted columns."""
    columns: Sequence[str]
    """What was measured beside the score."""
    costs: Sequence[str]
    """Meters that anybody moved."""
    versus: Sequence[Mapping[str, Any]]
    cards: Sequence[PromptCard]
    figures: Sequence[FigureView] = field(default_factory=tuple)
    chains: Sequence[ChainView] = field(default_factory=tuple)
    """What contestants wrote on their way."""


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
    cells: Sequence[Mapping[str, Any]]
    unfinished: Sequence[Mapping[str, Any]]
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
    "queries_per_answer": "queries an answer in use",
}
"""Columns of the cost table."""


def build_page(results: Results, figures: Mapping[str, Sequence[FigureView]], colors: Mapping[str, str]) -> Page:
    """Gather the page.

    Args:
        results: what was read.
        figures: figures by task.
        colors: CSS colour of each contestant.
    """
    board = leaderboard(results)
    tasks = [
        _task_view(results, answer, board[board["task"] == answer.task], figures.get(answer.task, ()), colors)
        for answer in answers(results, board)
    ]
    cells = [_cell_view(results, index, row) for index, row in enumerate(records(results.cells))]
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
        runs=[_run_view(results, index) for index in range(len(results.runs))],
        cells=cells,
        unfinished=[cell for cell in cells if cell["status"] != "done"],
        coverage=COVERAGE,
    )


def _task_view(
    results: Results, answer: TaskAnswer, board: pd.DataFrame, figures: Sequence[FigureView], colors: Mapping[str, str]
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
        row["settings"] = _settings_text(results, str(record["label"]))
        row["cells"] = {name: number(record[name]) for name in columns}
        row["costs"] = {name: count(record[name]) for name in costs}
        row["strip"] = _strip(record, low, high)
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
        cards=prompt_cards(results, answer.task),
        figures=figures,
        chains=chain_views(results, answer.task),
    )


def _strip(record: Mapping[str, Any], low: float, high: float) -> dict[str, float] | None:
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


def _settings_text(results: Results, label: str) -> str:
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
        "proxy": "reward that is optimised (proxy)",
        "gold": "gold reward (seen by no contestant)",
        "kl_coef": "β, the price of a nat",
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


def _run_view(results: Results, index: int) -> dict[str, Any]:
    run = results.runs[index]
    manifest = run.manifest
    versions = manifest.get("versions")
    machine = manifest.get("machine")
    return {
        "name": run.name,
        "command": str(manifest.get("command") or ""),
        "created": str(manifest.get("created") or "unknown"),
        "commit": str(manifest.get("git_commit") or "unknown"),
        "bakeoff": str(manifest.get("bakeoff") or "unknown"),
        "versions": {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
        "machine": {str(k): str(v) for k, v in machine.items()} if isinstance(machine, dict) else {},
        "suite": json.dumps(manifest.get("suite"), indent=2, ensure_ascii=False, default=str),
    }


def _cell_view(results: Results, index: int, row: Mapping[str, Any]) -> dict[str, Any]:
    view = {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()}
    entry = results.entries[index]
    home = next(run.path for run in results.runs if entry.cell in run.cells)
    folder = entry.cell.path.relative_to(home).as_posix()
    return view | {"path": f"{entry.run}/{folder}" if len(results.runs) > 1 else folder}


def render(page: Page) -> str:
    """The page as one self-contained HTML document."""
    folder = resources.files("bakeoff.reports").joinpath("templates")
    css, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = environment().get_template("index.html")
    return template.render(
        page=page, css=Markup(css), script=Markup(script), policy=Markup(policy), titles=COLUMN_TITLES | COST_TITLES
    )


def leaderboard_html(results: Results) -> str:
    """The leaderboard alone, for notebooks."""
    board = leaderboard(results)
    return environment().get_template("notebook.html").render(board=records(board), cells=records(results.cells))


def environment() -> jinja2.Environment:
    """Autoescape for everything, and no invisible character comes out of any expression."""
    loader = jinja2.FunctionLoader(_source)
    env = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"number": number, "count": count, "one_line": one_line}
    return env


def _source(name: str) -> str:
    return resources.files("bakeoff.reports").joinpath("templates", Path(name).name).read_text(encoding="utf-8")


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
