"""How every figure looks: one colour a contestant everywhere, readable type, labels that do not overlap, SVG that
repeats.

The palette is Okabe and Ito's (2008), without its yellow (too faint on white), plus a brown; told apart by people with
any common colour blindness. Past its end colours repeat with another marker and dash.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.style
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bakeoff.errors import UserError
from bakeoff.reports.text import visible

if TYPE_CHECKING:
    from bakeoff.reports.results import Results

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c510a", "#6a51a3")
"""Contestants' colours in order."""
BASELINE = "#6b6b70"
"""Colour of an untrained reference, and of bounds."""
INK, FAINT, PAPER = "#1b1b1f", "#d8d8dc", "#ffffff"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

STYLE = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib; an SVG viewer without it falls back on a narrower face
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
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
"""The report's matplotlib settings; :func:`panels` takes any other style in their place."""


@dataclass(frozen=True)
class Mark:
    """How one contestant is drawn."""

    color: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class Look:
    """A mark for each contestant, the same in every figure of a report."""

    marks: dict[str, Mark]

    @classmethod
    def of(cls, results: Results) -> Look:
        """Colours in the order of the suite; grey for the untrained reference; one colour for all points of a sweep."""
        marks: dict[str, Mark] = {}
        families: dict[str, list[str]] = {}
        for label in results.labels():
            if label in results.untrained:
                marks[label] = Mark(BASELINE, "h", "-")
            else:
                families.setdefault(family(label), []).append(label)
        for turn, members in enumerate(families.values()):
            lap = turn // len(PALETTE)
            for place, label in enumerate(members):
                dash = DASHES[(lap + place) % len(DASHES)]
                marks[label] = Mark(PALETTE[turn % len(PALETTE)], MARKERS[(turn + lap) % len(MARKERS)], dash)
        return cls(marks)

    def __getitem__(self, label: str) -> Mark:
        return self.marks[label]


def family(label: str) -> str:
    """The label without its point in a sweep: ``ppo`` for ``ppo[kl_coef=0.1]``; a family shares a colour."""
    base, bracket, rest = label.partition("[")
    return base + rest.partition("]")[2] if bracket and not base.endswith(" ") else label


def panels(tasks: Sequence[str], draw: Callable[[Axes, str], bool], *, style: Any = None) -> Figure | None:
    """A figure with one panel for each task that ``draw`` can draw; ``None`` when there is none.

    ``draw(axes, task)`` says whether it drew anything. No global matplotlib state is touched.
    """
    with styled(style):
        drawn = [task for task in tasks if draw(Figure().subplots(), task)] if len(tasks) > 1 else list(tasks)
        if not drawn:
            return None
        columns = min(2, len(drawn))
        rows = math.ceil(len(drawn) / columns)
        figure = Figure(figsize=(5.8 * columns, 3.9 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, task in zip(grid.flat, drawn, strict=False):
            if not draw(axes, task):
                return None
            if len(drawn) > 1:
                axes.set_title(f"{label_text(task)}: {axes.get_title(loc='left')}", loc="left")
        for axes in list(grid.flat)[len(drawn) :]:
            axes.set_visible(False)
        figure.canvas.draw()
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


@contextmanager
def styled(style: Any = None) -> Iterator[None]:
    """Our settings, or any matplotlib style in their place, for the time of drawing."""
    ours = {**sns.axes_style("ticks"), **STYLE}
    with matplotlib.style.context(style) if style is not None else matplotlib.rc_context(ours):
        yield


def label_text(text: str, limit: int = 40) -> str:
    """A label fit for a figure: control characters spelled out, no mathtext, not too long."""
    clean = visible(" ".join(text.split())).replace("$", r"\$")
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def label_line_ends(axes: Axes, ends: Iterable[tuple[str, float, float, str]]) -> None:
    """Write each label beside the right end of its line, moved apart vertically where they would touch.

    ``ends`` holds (label, x, y, colour). A thin leader joins a label that had to move far.
    """
    wanted = [(label, x, y, color) for label, x, y, color in ends if np.isfinite(x) and np.isfinite(y)]
    if not wanted:
        return
    widest = max(len(label_text(label, 26)) for label, *_ in wanted)
    low, high = axes.get_xlim()
    share = min(0.42, 0.0145 * widest + 0.03)
    axes.set_xlim(low, low + (high - low) / (1 - share))

    def place() -> None:
        figure: Any = axes.figure
        to_pixels = axes.transData.transform
        box = axes.get_window_extent()
        gap = 9.5 * figure.dpi / 72 * 1.25
        rows = sorted(
            ((to_pixels((x, y))[1], to_pixels((x, y))[0], label, color) for label, x, y, color in wanted),
            key=lambda row: row[0],
        )
        heights = spread([row[0] for row in rows], gap, box.y0 + gap / 2, box.y1 - gap / 2)
        right = max(row[1] for row in rows)
        for (y, x, label, color), height in zip(rows, heights, strict=True):
            to_data = axes.transData.inverted().transform
            target, point = to_data((right + 9 * figure.dpi / 72, height)), to_data((x, y))
            arrow = {"arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 2}
            far = abs(height - y) > 2 or right - x > 2
            axes.annotate(
                label_text(label, 26),
                xy=(point[0], point[1]),
                xytext=(target[0], target[1]),
                color=color,
                fontsize=9,
                fontweight="bold",
                va="center",
                ha="left",
                annotation_clip=False,
                arrowprops=arrow if far else None,
            )

    after_layout(axes, place)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to the (sorted) wanted ones that keep a gap, inside [low, high] where there is room."""
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    placed: list[list[float]] = []  # blocks of [centre sum, count]
    for value in wanted:
        placed.append([min(max(value, low), high), 1])
        while len(placed) > 1:
            (above, n), (below, m) = placed[-1], placed[-2]
            if above - (n - 1) / 2 * gap - (below + (m - 1) / 2 * gap) >= gap:
                break
            centre = (above * n + below * m) / (n + m)
            half = (n + m - 1) / 2 * gap
            placed[-2:] = [[min(max(centre, low + half), high - half), n + m]]
    return [centre + (i - (n - 1) / 2) * gap for centre, n in placed for i in range(int(n))]


def label_points(axes: Axes, points: Iterable[tuple[str, float, float, str]]) -> None:
    """Write each label near its point, on the first of several sides where it covers no point and no other label."""
    wanted = [point for point in points if np.isfinite(point[1]) and np.isfinite(point[2])]

    def place() -> None:
        figure: Any = axes.figure
        unit = figure.dpi / 72
        frame = axes.get_window_extent()
        spots = [axes.transData.transform((x, y)) for _, x, y, _ in wanted]
        taken = [(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in spots]
        for (label, x, y, color), spot in zip(wanted, spots, strict=True):
            text = label_text(label, 28)
            width, height = 5.9 * len(text) * unit, 11 * unit
            best, best_cost = (8.0, 0.0), math.inf
            for reach in (8, 16, 28, 42):
                for dx, dy in ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0.1, 1), (0.1, -1), (1, 0), (-1, 0)):
                    left = spot[0] + dx * reach * unit - (width if dx < 0 else (width / 2 if abs(dx) < 0.5 else 0))
                    base = spot[1] + dy * reach * unit - height / 2
                    box = (left, base, left + width, base + height)
                    outside = max(0.0, frame.x0 - left) + max(0.0, left + width - frame.x1)
                    outside += max(0.0, frame.y0 - base) + max(0.0, base + height - frame.y1)
                    cost = sum(_overlap(box, other) for other in taken) + 20 * outside + 0.4 * reach * unit
                    if cost < best_cost:
                        best, best_cost = ((left - spot[0]) / unit, (base + height / 2 - spot[1]) / unit), cost
            left, middle = spot[0] + best[0] * unit, spot[1] + best[1] * unit
            taken.append((left, middle - height / 2, left + width, middle + height / 2))
            axes.annotate(
                text, (x, y), best, textcoords="offset points", color=color, fontsize=9, fontweight="bold", va="center"
            )

    after_layout(axes, place)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; the same figure gives the same bytes (SVG: no date, fixed ids)."""
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in formats:
        raise UserError(f'figure file "{path}": no such format; end its name with .svg, .png or .pdf')
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".svg":
        path.write_text(svg(figure), encoding="utf-8")
    else:
        figure.savefig(path, dpi=160, metadata={"CreationDate": None} if path.suffix.lower() == ".pdf" else None)
    return path


def svg(figure: Figure) -> str:
    """The figure as SVG text; type stays type, so it can be searched, read aloud and restyled."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bakeoff"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    return re.sub(r"[ \t]+$", "", buffer.getvalue(), flags=re.MULTILINE)


_THEMED = {INK: "--ink", FAINT: "--grid", PAPER: "--paper", "#8a8a90": "--axis", BASELINE: "--baseline"} | {
    color: f"--c{index}" for index, color in enumerate(PALETTE)
}


def inline(svg_text: str, prefix: str, title: str) -> str:
    """An SVG file's text made fit for a page: own ids, colours that follow the page's theme, a title to be read aloud.
    An SVG file's text made fit for a page: own ids, colours that follow the page's theme, a title to be read aloud.
    """
    body = svg_text[svg_text.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", body)
    body = re.sub(
        r"#[0-9a-f]{6}\b", lambda m: f"var({_THEMED[m.group()]})" if m.group() in _THEMED else m.group(), body
    )
    body = re.sub(r"""font: ([^;"]*?)'DejaVu Sans'[^;"]*""", r"font: \1'DejaVu Sans', Verdana, sans-serif", body)
    view = re.search(r'viewBox="([^"]+)"', body)
    box = view.group(1) if view else "0 0 500 300"
    width = box.split()[2]
    head = f'<svg viewBox="{box}" role="img" aria-label="{title}" style="max-width:{float(width):.0f}pt">'
    return re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)


def css_color(color: str) -> str:
    """A figure's colour as the page's theme variable."""
    return f"var({_THEMED[color]})" if color in _THEMED else color
