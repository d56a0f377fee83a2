"""One file per kind of figure, with a function that draws one task onto one axes; this file assembles the panels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.errors import NotFoundError, UserError
from bakeoff.reports.data.results import RunData
from bakeoff.reports.data.store_reader import METERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: Mapping[str, str] = {
    "learning_curves": "score against what was spent; options metric=, meter=",
    "frontier": "reward against KL to the reference: the contestants, best of n, and the optimum where it is known",
    "cost": "what each contestant spent, one bar per contestant (mean over seeds)",
    "drift": "length, entropy, diversity against KL: how the text changed",
    "win_rate": "win rate over the reference on the same prompts",
    "improvement": "probability that a run of one contestant beats a run of another",
    "win_rate_matrix": "win rate of every contestant over every other on the same prompts, with errors over prompts and seeds",
    "gains": "gain over the reference on each prompt; option metric=",
    "overoptimization": "gold against proxy reward over the square root of KL",
    "profile": "share of runs above each normalized score",
}
"""Every kind of figure that :func:`plot` draws, with a line that describes it."""


NEEDS: Mapping[str, str] = {
    "drift": "a task that reports KL",
    "frontier": "a task that reports KL",
    "win_rate": "a task that reports win_rate",
    "improvement": "two contestants with two finished seeds each",
    "win_rate_matrix": "stored samples of two contestants with two finished seeds each",
    "gains": "stored samples of the reference and of a contestant",
    "overoptimization": "a task with `gold:`",
    "profile": "a task with a normalized score, such as exact",
}
"""What a kind of figure needs beyond a finished cell."""


def drawer(kind: str) -> Callable[..., Any]:
    """The function behind a kind, imported when it is first asked for.

    Raises:
        NotFoundError: no such kind; the message suggests the nearest.
    """
    if kind not in KINDS:
        raise NotFoundError("figure kind", kind, KINDS)
    from bakeoff.reports.figures import cost, curves, drift, frontier, gains, overoptimization, pairs

    return {
        "learning_curves": curves.draw_learning_curves,
        "frontier": frontier.draw_frontier,
        "cost": cost.draw_cost,
        "drift": drift.draw_drift,
        "win_rate": pairs.draw_win_rate,
        "improvement": pairs.draw_improvement,
        "win_rate_matrix": pairs.draw_win_rate_matrix,
        "gains": gains.draw_gains,
        "overoptimization": overoptimization.draw_overoptimization,
        "profile": curves.draw_profile,
    }[kind]


def plot(results: RunData, kind: str, *, task: str | None = None, style: Any = None, **options: Any) -> Figure:
    """A figure with a panel for each task that has something to show.

    Args:
        results: what to draw.
        kind: one of :data:`KINDS`.
        task: only this task.
        style: anything ``matplotlib.style.use`` takes, instead of the report's own.
        **options: passed to the drawing function.

    Raises:
        NotFoundError: no such kind, task or meter.
        UserError: an option that this kind does not have, no such style, or nothing to draw: no finished cell has what this
            kind shows.
    """
    from bakeoff.reports.figures.style import FigureStyle, panels

    draw = drawer(kind)
    _check_options(results, kind, draw, options)
    tasks = results.task_names()
    if task is not None and task not in tasks:
        raise NotFoundError("task", task, tasks)
    styles = FigureStyle.of(results)
    shown = [task] if task is not None else tasks
    figure = panels(shown, lambda axes, name: draw(axes, results, name, styles, **options), style=style)
    if figure is None:
        needs = f"it needs {NEEDS[kind]}" if kind in NEEDS and not options else "run more of the suite"
        raise UserError(f'figure "{kind}": no finished cell has what it shows; {needs}')
    return figure


def _check_options(results: RunData, kind: str, draw: Callable[..., Any], options: Mapping[str, Any]) -> None:
    known = [name for name, p in inspect.signature(draw).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise UserError(f'figure "{kind}" has no option "{name}"; it has {", ".join(known) or "none"}')
    from pandas.api.types import is_numeric_dtype

    metric = options.get("metric")
    for frame in (results.evaluations, results.end_samples) if isinstance(metric, str) else ():
        if metric in frame and not is_numeric_dtype(frame[metric]):
            raise UserError(f'figure "{kind}": "{metric}" holds no numbers; name a metric, such as proxy')
    if "meter" in options and options["meter"] not in METERS:
        raise NotFoundError("meter", str(options["meter"]), METERS)


def write_figure(
    runs: RunData | Sequence[Path | str] | Path | str,
    kind: str,
    out: Path | str,
    *,
    task: str | None = None,
    style: Any = None,
    **options: Any,
) -> Path:
    """Draw one figure into a file and return its path; the file name's ending chooses the format (svg, png, pdf).

    Arguments are those of :func:`plot`.

    Raises:
        RunFolderError: a folder that is no run folder.
        NotFoundError: no such kind or task.
        UserError: nothing to draw, or a format that matplotlib does not write.
    """
    from bakeoff.reports.figures.svg import check_format, save

    drawer(kind)  # a wrong kind is reported before any folder is read
    results = runs if isinstance(runs, RunData) else RunData.load(runs)
    check_format(Path(out))
    return save(plot(results, kind, task=task, style=style, **options), Path(out))
