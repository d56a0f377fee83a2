"""The style of every figure: one color per contestant everywhere, readable type, labels that do not overlap, the same
SVG bytes each time.

The palette is Okabe and Ito's (2008), without its yellow (too faint on white), plus a brown; distinguishable with
any common color blindness. Past its end colors repeat with another marker and dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.style
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bakeoff.errors import UserError
from bakeoff.reports.data.entries import family
from bakeoff.reports.data.text import visible

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c510a", "#6a51a3")
"""Contestants' colors in order."""
BASELINE = "#6b6b70"
"""Color of an untrained reference, and of bounds."""
INK, FAINT, PAPER = "#1b1b1f", "#d8d8dc", "#ffffff"
DPI = 160
"""Pixels per inch, of PNG and of text measurement: with two values, text would be measured again for every format."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

STYLE = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib; an SVG viewer without it falls back on a narrower face
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # no ticks are on top; looking for some took 6 % of a large report
    "axes.labelsize": 10.0,
    "axes.edgecolor": "#8a8a90",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
}
"""The report's matplotlib settings; :func:`panels` takes any other style instead."""


@dataclass(frozen=True)
class SeriesStyle:
    """Color, marker and dash of one contestant."""

    color: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class FigureStyle:
    """A style per contestant, the same in every figure of a report."""

    series: dict[str, SeriesStyle]

    @classmethod
    def of(cls, results: RunData) -> FigureStyle:
        """Colors in the order of the suite; gray for the untrained reference; one color for all points of a sweep."""
        series: dict[str, SeriesStyle] = {}
        families: dict[str, list[str]] = {}
        for label in results.labels():
            if label in results.untrained:
                series[label] = SeriesStyle(BASELINE, "h", "-")
            else:
                families.setdefault(family(label), []).append(label)
        for turn, members in enumerate(families.values()):
            lap = turn // len(PALETTE)
            for place, label in enumerate(members):
                dash = DASHES[(lap + place) % len(DASHES)]
                series[label] = SeriesStyle(PALETTE[turn % len(PALETTE)], MARKERS[(turn + lap) % len(MARKERS)], dash)
        return cls(series)

    def __getitem__(self, label: str) -> SeriesStyle:
        return self.series[label]


def panels(tasks: Sequence[str], draw: Callable[[Axes, str], bool], *, style: Any = None) -> Figure | None:
    """A figure with one panel for each task that ``draw`` can draw; ``None`` when there is none.

    ``draw(axes, task)`` returns whether it drew anything. No global matplotlib state is touched.
    """
    with styled(style):
        drawn = [task for task in tasks if draw(Figure().subplots(), task)] if len(tasks) > 1 else list(tasks)
        if not drawn:
            return None
        columns = min(2, len(drawn))
        rows = math.ceil(len(drawn) / columns)
        figure = Figure(figsize=(5.2 * columns, 3.6 * rows), dpi=DPI, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, task in zip(grid.flat, drawn, strict=False):
            if not draw(axes, task):
                return None
            if len(drawn) > 1:
                title = axes.get_title(loc="left")
                axes.set_title(label_text(task) + (f"\n{title}" if title else ""), loc="left")
        for axes in list(grid.flat)[len(drawn) :]:
            axes.set_visible(False)
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)  # without drawing: that costs as much again
        figure.set_layout_engine("none")  # labels are placed for this layout, so it must stay
        for place in figure.__dict__.pop("_after_layout", []):
            place()
        return figure


def after_layout(axes: Axes, place: Callable[[], None]) -> None:
    """Run ``place`` once the layout is known: labels need final positions in points."""
    figure: Any = axes.figure
    figure.__dict__.setdefault("_after_layout", []).append(place)


def set_height(axes: Axes, inches: float) -> None:
    """Give a figure of a single panel the height that its rows need."""
    figure: Any = axes.figure
    if len(figure.axes) == 1:
        figure.set_size_inches(figure.get_size_inches()[0], inches)


def fit_height(axes: Axes, rows: int, row_height: float = 0.42) -> None:
    """The height for ``rows`` rows of marks or squares, within reason."""
    set_height(axes, min(9.0, max(2.2, row_height * rows + 1.3)))


@contextmanager
def styled(style: Any = None) -> Iterator[None]:
    """Our settings, or any matplotlib style instead, while drawing."""
    ours = {**sns.axes_style("ticks"), **STYLE}
    wanted = matplotlib.style.context(style) if style is not None else matplotlib.rc_context(ours)
    with ExitStack() as stack:
        try:
            stack.enter_context(wanted)
        except OSError as error:  # matplotlib has no such style
            raise UserError(f'style "{style}": matplotlib has none of that name, and there is no such file') from error
        yield


def label_text(text: str, limit: int = 40) -> str:
    """A label fit for a figure: control characters spelled out, no mathtext, not too long."""
    clean = visible(" ".join(text.split())).replace("$", r"\$")
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
