"""The report as Markdown: the same content as the page, readable as plain text too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bakeoff.reports.data.text import count, number, one_line, visible
from bakeoff.reports.page.page import COLUMN_TITLES, COST_NOTE, COST_TITLES

if TYPE_CHECKING:
    from bakeoff.reports.analysis.chains import ChainView
    from bakeoff.reports.analysis.samples import PromptCard
    from bakeoff.reports.page.page import Page, TaskView


def render(page: Page) -> str:
    """The whole report."""
    lines = [f"# Bake-off report: {_inline(page.title)}", ""]
    if page.description:
        lines += [_inline(page.description), ""]
    for view in page.tasks:
        lines += [f"- **{_inline(view.name)}**: {_inline(view.answer.headline)}"]
    lines += ["", "**Limits of the data**", "", *(f"- {_inline(note)}" for note in page.caveats), ""]
    if page.over_tasks:
        lines += ["## Over all tasks with a normalized score", ""]
        head = ["contestant", "tasks", "seeds", "IQM (95 % interval)", "optimality gap"]
        lines += table(
            head,
            (
                [
                    row["label"],
                    row["tasks"],
                    row["seeds"],
                    _with_interval(row["iqm"], row["low"], row["high"]),
                    number(row["optimality_gap"]),
                ]
                for row in page.over_tasks
            ),
        )
    for view in page.tasks:
        lines += _task(view)
    return "\n".join([*lines, *_provenance(page)]) + "\n"


def _task(view: TaskView) -> list[str]:
    lines = [f"## Task {_inline(view.name)}", "", _inline(view.answer.headline), ""]
    lines += [f"- {_inline(sentence)}" for sentence in view.answer.details]
    lines += ["", *(f"- {title}: {_inline(value)}" for title, value in view.facts), ""]
    head = [
        "contestant",
        "seeds",
        f"{view.metric}, mean (95 % interval)",
        "IQM",
        *(COLUMN_TITLES[name] for name in view.columns),
    ]
    rows = (
        [
            row["label"],
            f"{row['seeds']}/{row['planned']}",
            _with_interval(row.get("mean"), row.get("mean_low"), row.get("mean_high")),
            number(row.get("iqm")),
            *row["cells"].values(),
        ]
        for row in view.rows
    )
    lines += table(head, rows)
    if "win_rate" in view.columns:
        lines += ["Win rate: over the reference's independent answers to the same prompts, ties one half. The reference's own is "
                  "0.5 where prompts are answered more than once; elsewhere it differs by sampling noise.", ""]  # fmt: skip
    if view.costs:
        lines += [f"Cost per run. {COST_NOTE}", ""]
        lines += table(
            ["contestant", *(COST_TITLES[name] for name in view.costs)],
            ([row["label"], *row["costs"].values()] for row in view.rows),
        )
    if view.versus:
        lines += [f"{_inline(view.versus[0]['label'])} compared with each other contestant:", ""]
        lines += table(
            [
                "compared with",
                "difference (95 % interval for all pairs)",
                "p for all pairs",
                "probability of improvement (95 % interval)",
            ],
            (
                [
                    row["other"],
                    _with_interval(row["difference"], row["low"], row["high"]),
                    number(row["p"]),
                    _with_interval(row["improvement"], row["improvement_low"], row["improvement_high"]),
                ]
                for row in view.versus
            ),
        )
    if view.pairwise:
        lines += [
            f"Pairwise win rates: final answers to the same stored prompts under different seeds, judged by {view.pairwise.judge}, "
            "ties one half:",
            "",
        ]
        lines += table(
            ["contestant", "rating (Bradley-Terry log-odds)", "win rate over all others", "pairs of answers"],
            (
                [row["label"], number(row["rating"], 2), number(row["rate"], 2), row["games"]]
                for row in view.pairwise.rows
            ),
        )
    for figure in view.figures:
        lines += [f"![{figure.title}]({figure.file})", "", figure.caption, ""]
    if view.measures.rows:
        lines += ["### Further measures", "", *table(["contestant", *view.measures.names], view.measures.rows)]
    for chains in view.chains:
        lines += _chains(chains)
    if view.cards:
        lines += ["### Answers of every contestant to the same prompts", ""]
    for card in view.cards:
        lines += _card(card)
    for section in view.sections:
        lines += [f"### {_inline(section.title)}", "", *section.markdown, ""]
    return lines


def _chains(view: ChainView) -> list[str]:
    lines = [f"### What {_inline(view.label)} wrote during training", ""]
    lines += [*(f"- {_inline(fact)}" for fact in view.facts), *(f"- **{_inline(bad)}**" for bad in view.warnings), ""]
    lines += table(view.head, view.rows) if view.rows else []
    for card in view.cards:
        lines += ["Prompt:", "", *_fence(card.prompt.shown), "", "Before:", "", *_fence(card.response.shown), ""]
        for principle, critique, revision, _ in card.rounds:
            lines += [f"Critique ({_inline(principle)}):", "", *_fence(critique.shown), ""]
            lines += ["After:", "", *_fence(revision.shown), ""]
    return lines


def _card(card: PromptCard) -> list[str]:
    lines = ["Prompt:", "", *_fence(card.prompt.shown + card.prompt.rest), ""]
    for answer in card.answers:
        figures = [
            f"{name} {number(value)}"
            for name, value in (("proxy", answer.proxy), ("gold", answer.gold), ("KL", answer.kl))
            if value == value
        ]
        lines += [f"**{_inline(answer.label)}** {', '.join(figures)}", ""]
        lines += [*_fence(answer.text.shown + ("…" if answer.text.rest else "")), ""]
    return lines


def _provenance(page: Page) -> list[str]:
    lines = ["## Cells", ""]
    if page.unfinished:
        lines += [page.completion, ""]
        lines += table(
            ["task", "contestant", "seed", "status", "why"],
            ([c.task, c.label, c.seed, c.status, one_line(c.error)] for c in page.unfinished),
        )
    else:
        lines += [page.completion, ""]
    lines += table(
        ["task", "contestant", "seed", "score", "at step", "folder"],
        (
            [cell.task, cell.label, cell.seed, number(cell.score, 4), count(cell.step), cell.path]
            for cells in page.cells.values()
            for cell in cells
        ),
    )
    lines += ["## Provenance", ""]
    for run in page.runs:
        lines += [f"### Run {_inline(run['name'])}", ""]
        lines += [
            f"- made {_inline(run['created'])} by bakeoff {_inline(run['bakeoff'])}, commit {_inline(run['commit'])}"
        ]
        lines += [f"- machine: {_inline(_pairs(run['machine']))}", f"- versions: {_inline(_pairs(run['versions']))}"]
        if run["command"]:
            lines += ["", "Repeat it with:", "", *_fence(run["command"])]
        lines += ["", "Suite as resolved:", "", *_fence(run["suite"]), ""]
    return lines


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a table, its cells escaped, and an empty line."""
    lines = ["| " + " | ".join(_inline(cell) for cell in head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_inline(str(cell)) for cell in row) + " |" for row in rows]
    return [*lines, ""]


def _with_interval(value: Any, low: Any, high: Any) -> str:
    if low is None or low != low:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "unknown"


def _inline(text: str) -> str:
    """Text that Markdown and its inline HTML leave alone."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", visible(" ".join(str(text).split())))


def _fence(text: str) -> list[str]:
    """A code block whose fence is longer than any run of backticks within."""
    clean = visible(text)
    longest = max((len(run) for run in re.findall("`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + "text", clean, fence]
