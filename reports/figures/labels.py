"""Direct labels on lines and points, placed so that they do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bakeoff.reports.data.entries import family
from bakeoff.reports.figures.style import PAPER, after_layout, label_text


def label_line_ends(axes: Axes, ends: Iterable[tuple[str, float, float, str]]) -> None:
    """Write each label beside the right end of its line, moved apart vertically where they would touch.

    ``ends`` holds (label, x, y, color). A thin leader joins a label that had to move far.
    """
    wanted = [(label, x, y, color) for label, x, y, color in ends if np.isfinite(x) and np.isfinite(y)]
    if not wanted:
        return
    widest = max(len(label_text(label, 26)) for label, *_ in wanted)
    low, high = axes.get_xlim()
    share = min(0.5, 0.0172 * widest + 0.03)
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
                arrowprops=_leader(color) if far else None,
            )

    after_layout(axes, place)


def _leader(color: str) -> dict[str, Any]:
    return {"arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 2}


def one_a_family(points: Iterable[tuple[str, float, float, str]], most: int = 8) -> list[tuple[str, float, float, str]]:
    """The points to label: all, or where they are more than ``most`` the outermost of each sweep, under its family's name."""
    listed = list(points)
    if len(listed) <= most:
        return listed
    outermost: dict[str, tuple[str, float, float, str]] = {}
    for label, x, y, color in listed:
        name = family(label)
        if name not in outermost or x > outermost[name][1]:
            outermost[name] = (name, x, y, color)
    return list(outermost.values())


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to the (sorted) wanted ones that keep a gap, inside [low, high] where there is room."""
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    placed: list[list[float]] = []  # blocks of [center sum, count]
    for value in wanted:
        placed.append([min(max(value, low), high), 1])
        while len(placed) > 1:
            (above, n), (below, m) = placed[-1], placed[-2]
            if above - (n - 1) / 2 * gap - (below + (m - 1) / 2 * gap) >= gap:
                break
            center = (above * n + below * m) / (n + m)
            half = (n + m - 1) / 2 * gap
            placed[-2:] = [[min(max(center, low + half), high - half), n + m]]
    return [center + (i - (n - 1) / 2) * gap for center, n in placed for i in range(int(n))]


def label_points(axes: Axes, points: Iterable[tuple[str, float, float, str]]) -> None:
    """Write each label near its point, on the side where it covers the least of points, lines and other labels.

    A thin leader joins a label that had to move far.
    """
    wanted = [point for point in points if np.isfinite(point[1]) and np.isfinite(point[2])]

    def place() -> None:
        figure: Any = axes.figure
        unit = figure.dpi / 72
        frame = axes.get_window_extent()
        spots = [axes.transData.transform((x, y)) for _, x, y, _ in wanted]
        drawn = np.concatenate([np.array(spots).reshape(-1, 2), *(_along(line, 3 * unit) for line in axes.lines)])
        room = np.where(np.arange(len(drawn)) < len(spots), 5 * unit, unit)[:, None]
        taken = np.hstack([drawn - room, drawn + room])
        for (label, x, y, color), spot in zip(wanted, spots, strict=True):
            text = label_text(label, 28)
            width, height = 5.9 * len(text) * unit, 11 * unit
            best, best_cost, far = (8.0, 0.0), math.inf, False
            for reach in (8, 16, 28, 42):
                for dx, dy in ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0.1, 1), (0.1, -1), (1, 0), (-1, 0)):
                    left = spot[0] + dx * reach * unit - (width if dx < 0 else (width / 2 if abs(dx) < 0.5 else 0))
                    base = spot[1] + dy * reach * unit - height / 2
                    box = (left, base, left + width, base + height)
                    outside = max(0.0, frame.x0 - left) + max(0.0, left + width - frame.x1)
                    outside += max(0.0, frame.y0 - base) + max(0.0, base + height - frame.y1)
                    cost = _overlap(box, taken) + 20 * outside + 0.4 * reach * unit
                    if cost < best_cost:
                        best, best_cost = ((left - spot[0]) / unit, (base + height / 2 - spot[1]) / unit), cost
                        far = reach > 8
            left, middle = spot[0] + best[0] * unit, spot[1] + best[1] * unit
            taken = np.vstack([taken, (left, middle - height / 2, left + width, middle + height / 2)])
            axes.annotate(
                text,
                (x, y),
                best,
                textcoords="offset points",
                color=color,
                fontsize=9,
                fontweight="bold",
                va="center",
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.4},  # where lines pass behind it
                arrowprops=_leader(color) if far else None,
            )

    after_layout(axes, place)


def _along(line: Line2D, step: float) -> NDArray[np.float64]:
    """Points along a drawn line, about ``step`` pixels apart, shape (K, 2)."""
    corners = line.get_transform().transform(np.asarray(line.get_xydata(), dtype=np.float64))
    corners = corners[np.isfinite(corners).all(axis=1)]
    if len(corners) < 2:
        return np.empty((0, 2))
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    at = np.linspace(0, length[-1], min(400, int(length[-1] / step) + 2))
    return np.stack([np.interp(at, length, corners[:, 0]), np.interp(at, length, corners[:, 1])], axis=1)


def _overlap(box: tuple[float, float, float, float], others: NDArray[np.float64]) -> float:
    """Area that a box (left, bottom, right, top) shares with others, shape (M, 4), added up."""
    across = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    up = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    return float((across.clip(0) * up.clip(0)).sum())
