"""Writes the report: one HTML page, the same in Markdown, the tables as CSV and LaTeX, the figures as SVG and PNG."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from bakeoff import plain_files
from bakeoff.errors import RunFolderError
from bakeoff.reports.data.results import RunData
from bakeoff.reports.data.text import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bakeoff.reports.figures.style import FigureStyle
    from bakeoff.reports.page.page import FigureView
    from bakeoff.reports.page.sections import SectionMaker

FIGURES = {
    "learning_curves": (
        "Learning curves",
        "Mean over seeds with its 95 % bootstrap band; faint lines are single seeds. Level dashed lines are "
        "contestants that do not learn.",
    ),
    "frontier": (
        "Reward against KL",
        "Upper left is better: more reward, closer to the reference. Faint points are seeds, bars 95 % bootstrap "
        "intervals, a ring marks a contestant that no other beats in both.",
    ),
    "win_rate": (
        "Win rate",
        "Over the reference's independent answers to the same prompts, ties one half; the reference's own is 0.5 where prompts "
        "are answered more than once. Faint points are seeds, bars 95 % bootstrap intervals. The dashed line is a draw.",
    ),
    "improvement": (
        "Probability of improvement",
        "The chance that a run of the row's contestant beats a run of the column's, from the seeds of both, ties one "
        "half. With few seeds only a few values are possible; contestants with one seed are left out.",
    ),
    "win_rate_matrix": (
        "Win rates on the same prompts",
        "How often the row's final answer beats an independent one of the column's to the same stored prompt, ties one half, with "
        "the standard error over prompts and seeds. Pairs are of different seeds, since answers of one seed share their random "
        "numbers; contestants with one seed show none.",
    ),
    "gains": (
        "Gains per prompt",
        "Each dot is a stored evaluation prompt, mean over seeds: how much higher the final answer scores than the reference's. "
        "The large mark is the mean over prompts with its 95 % bootstrap interval.",
    ),
    "profile": (
        "Performance profile",
        "The share of runs whose normalized score is above the value on the horizontal axis: higher is better.",
    ),
    "overoptimization": (
        "Gold against proxy",
        "Where the full line (gold) falls while the dotted one (proxy) rises, the proxy is being exploited. KL is not "
        "a fair measure of pressure across methods: compare the lines of one contestant, not contestants. Thin dashes: "
        "gold fitted as d (a − b ln d), or d (a − b d) over the n of best of n, d = √KL (Gao et al. 2023), where that form "
        "describes the data (R² of at least 0.5). A ring marks the best gold that was measured.",
    ),
    "drift": (
        "How the text changed",
        "Length in tokens, entropy in nats per token, share of distinct word pairs: means over seeds along training, "
        "against KL to the reference. The marker is where training ended.",
    ),
    "cost": (
        "Cost",
        "Mean over seeds of what one run spent; a thin line runs from the least to the most. Evaluation is not included.",
    ),
}
"""Figures of the page in order, with title and caption."""


CELLS_FOR_PROCESSES = 100
"""From this many cells on, starting processes to draw with is worth its second or two."""


def write_report(
    runs: RunData | Sequence[Path | str] | Path | str, out: Path | str | None = None, *, processes: int = 1
) -> Path:
    """Write the report of one or more runs and return the path of its ``index.html``.

    Writes ``index.html``, ``report.md``, tables (``leaderboard.csv``, ``leaderboard.tex``, ``equal_terms.csv``), and every
    figure as ``figures/*.svg`` and ``figures/*.png``. The same run folders give the same bytes in the same place.

    Args:
        runs: run folders, or what was loaded from them.
        out: folder to write into; ``report/`` in the first run folder by default.
        processes: how many processes may draw the figures of a large run. They are spawned, so a script with more than one
            needs the usual ``if __name__ == "__main__"``.

    Raises:
        RunFolderError: a folder is no run folder, or the report cannot be written there.
    """
    from bakeoff.reports.analysis import equal_terms, gold_curves
    from bakeoff.reports.page import html, markdown, page, tables

    results = runs if isinstance(runs, RunData) else RunData.load(runs)
    folder = Path(out) if out is not None else results.runs[0].path / "report"
    _make(folder, named=out is not None)
    figures, files = _draw(results, processes)
    built = page.build_page(results, figures, _css_colors(results), folder, _section_makers())
    files |= {
        "index.html": html.render(built),
        "report.md": markdown.render(built),
        "leaderboard.csv": tables.csv(built.board),
        "leaderboard.tex": tables.latex(built.board),
    }
    gold = gold_curves.table(results)
    if len(gold):
        files["overoptimization.csv"] = tables.csv(gold)
    equal = equal_terms.equal_terms(results)
    if len(equal):
        files["equal_terms.csv"] = tables.csv(equal)
    for name, content in files.items():
        _write(folder / name, content)
    drawn = folder / "figures" / ".drawn"
    for name in _lines(drawn):  # of an earlier report; a stale figure would mislead
        if f"figures/{name}" not in files and Path(name).name == name:
            (folder / "figures" / name).unlink(missing_ok=True)
    figures_of = sorted(name.removeprefix("figures/") for name in files if name.startswith("figures/"))
    _write(drawn, "".join(f"{name}\n" for name in figures_of))
    return folder / "index.html"


def _section_makers() -> Sequence[SectionMaker]:
    """Makers of the sections that only some tasks have, in the order of the page. Add yours here."""
    from bakeoff.reports.page.equal_terms_section import equal_terms_section
    from bakeoff.reports.page.gold_section import gold_section

    return (equal_terms_section, gold_section)


def _lines(path: Path) -> list[str]:
    try:
        return plain_files.read(path).decode("utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        return []


@dataclass(frozen=True)
class _Drawn:
    """One figure as text and pixels."""

    kind: str
    svg: str
    png: bytes
    inline: str


def _draw(results: RunData, processes: int) -> tuple[dict[str, list[FigureView]], dict[str, str | bytes]]:
    """Figures by task, and the files they make."""
    from bakeoff.reports.page.page import FigureView

    views: dict[str, list[FigureView]] = {}
    files: dict[str, str | bytes] = {}
    for place, (task, figures) in enumerate(_drawn(results, processes)):
        for figure in figures:
            file = f"figures/{figure.kind}-{slug(task)}.svg"
            if file in files:  # two task names may differ only in characters that no file name has
                file = f"figures/{figure.kind}-{slug(task)}-{place}.svg"
            files[file] = figure.svg
            files[file.removesuffix(".svg") + ".png"] = figure.png
            title, caption = FIGURES[figure.kind]
            views.setdefault(task, []).append(FigureView(figure.kind, title, caption, file, Markup(figure.inline)))
    return views, files


def _drawn(results: RunData, processes: int) -> Iterator[tuple[str, list[_Drawn]]]:
    """The figures of each task, drawn by several processes where there is enough to draw."""
    from bakeoff.reports.figures.style import FigureStyle

    styles, tasks = FigureStyle.of(results), results.task_names()
    workers = min(processes, len(tasks)) if len(results.entries) >= CELLS_FOR_PROCESSES else 1
    if workers > 1:
        try:
            with ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent
            ) as pool:
                parts = [results.of_task(task) for task in tasks]
                drawn = list(pool.map(_draw_task, parts, tasks, range(len(tasks)), repeat(styles)))
        except BrokenProcessPool:  # killed for want of memory, it may be; one after the other needs less
            workers = 1
        else:
            for task, (figures, memo) in zip(tasks, drawn, strict=True):
                results.memo.update(memo)
                yield task, figures
    if workers == 1:
        for place, task in enumerate(tasks):
            yield task, _draw_task(results, task, place, styles)[0]


def _end_with_parent() -> None:
    """End this process of a pool when the one that made the pool has ended; by itself it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw_task(
    results: RunData, task: str, place: int, styles: FigureStyle
) -> tuple[list[_Drawn], dict[tuple[str, ...], Any]]:
    """The figures of one task, the ``place``-th, and what was worked out for them."""
    from bakeoff.reports.figures import drawer
    from bakeoff.reports.figures.style import panels
    from bakeoff.reports.figures.svg import inline, png, svg

    drawn = []
    for kind, (title, caption) in FIGURES.items():
        figure = panels([task], partial(_panel, drawer(kind), results, styles))
        if figure is not None:
            text = svg(figure)
            picture = inline(text, f"{kind}{place}", f"{title}, task {slug(task)}. {caption}")
            drawn.append(_Drawn(kind, text, png(figure), picture))
    return drawn, results.memo


def _panel(draw: Callable[..., bool], results: RunData, styles: FigureStyle, axes: Axes, task: str) -> bool:
    return draw(axes, results, task, styles)


def _css_colors(results: RunData) -> dict[str, str]:
    from bakeoff.reports.figures.style import FigureStyle
    from bakeoff.reports.figures.svg import css_color

    return {label: css_color(series.color) for label, series in FigureStyle.of(results).series.items()}


def _make(folder: Path, *, named: bool) -> None:
    """Make the folder first, so that an unwritable one is reported before the figures are drawn; one that was named may be a
    link, and nothing in a run folder."""
    try:
        if named:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            plain_files.make_folder(folder)
        plain_files.make_folder(folder / "figures")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write(path: Path, content: str | bytes) -> None:
    """Whole or not at all."""
    try:
        plain_files.replace(path, content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path}: the report cannot be written here ({error.strerror}); give another folder")
