"""A reward model's calibration: confidence against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bakeoff.reports.figures.style import BASELINE, PALETTE, styled
from bakeoff.reports.figures.svg import save


def draw_reliability(axes: Axes, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """A line per set of pairs; a larger dot is based on more pairs.

    Args:
        axes: where to draw.
        curves: by name, rows of ``confidence``, ``accuracy`` and ``pairs``, as in the ``reliability`` of a report.
    """
    axes.plot([0.5, 1], [0.5, 1], color=BASELINE, lw=1, ls=(0, (4, 3)), label="calibrated")
    for (name, rows), color in zip(curves.items(), PALETTE, strict=False):
        sure, right = [row["confidence"] for row in rows], [row["accuracy"] for row in rows]
        total = sum(row["pairs"] for row in rows)
        axes.plot(sure, right, color=color, lw=1.4, label=name)
        axes.scatter(sure, right, s=[20 + 300 * row["pairs"] / total for row in rows], color=color, alpha=0.7)
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability of the answer it prefers")
    axes.set_ylabel("share of pairs where it is the chosen one")
    axes.legend(loc="lower right", fontsize=8.5)


def save_reliability(report: Mapping[str, Any], path: Path) -> Path:
    """Draw the figure of a reward model's ``report.json``."""
    measured = {"held out": report["measured"], "evaluation pairs": report["evaluated"]}
    with styled():
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        axes = figure.subplots()
        draw_reliability(axes, {name: part["reliability"] for name, part in measured.items() if part is not None})
        axes.set_title("Calibration")
        return save(figure, path)
