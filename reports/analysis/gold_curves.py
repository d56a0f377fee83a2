"""Gold over distance for every contestant of a task: the rows of the over-optimization table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bakeoff.reports.analysis.gold_fits import FORMULAS, Curve, Form, SeedFit, Turn, fit_over_seeds, measured_turn
from bakeoff.reports.data.text import number
from bakeoff.reports.statistics.estimates import Estimate
from bakeoff.reports.statistics.leaderboard import best_column, generator

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


class GoldCurve(NamedTuple):
    """One contestant's gold over distance."""

    name: str
    """Its label; for a group of contestants that do not learn, their algorithm."""
    labels: tuple[str, ...]
    """Contestants whose evaluations these are."""
    form: Form
    curves: Mapping[int, Curve]
    """By seed."""
    start: float
    """Mean gold of the reference, from which gains are counted."""
    fit: SeedFit | None
    turn: Turn | None


def gold_curves(results: RunData, task: str) -> list[GoldCurve]:
    """Every contestant that left the reference, in the order of the suite; empty where the task has no gold.

    A learner's curve is its evaluations along training. Contestants of one algorithm that do not learn (best of n with
    several n) make one curve together, each a point.
    """
    key = ("gold_curves", task)
    if key not in results.memo:  # verdict, table and figure need it, and the fits are resampled
        results.memo[key] = _gold_curves(results, task)
    found: list[GoldCurve] = results.memo[key]
    return found


def _gold_curves(results: RunData, task: str) -> list[GoldCurve]:
    rows = results.evaluations[results.evaluations["task"] == task]
    kl = best_column(rows, "kl")
    if kl not in rows or "gold" not in rows or not rows["gold"].notna().any():
        return []
    found = []
    for name, labels in _groups(results, task).items():
        mine = rows[rows["label"].isin(labels)].dropna(subset=[kl, "gold"])
        fixed = set(labels) <= results.not_learning
        curves = {}
        for seed in sorted(int(seed) for seed in mine["seed"].unique()):
            points = _points(mine[mine["seed"] == seed], kl, fixed)
            if np.any(points.distance > 0):
                curves[seed] = points
        if not curves:
            continue
        start = float(mine.groupby(["seed", "label"], observed=True)["gold"].first().mean())
        form: Form = "quadratic" if fixed else "logarithmic"
        fit = fit_over_seeds(list(curves.values()), form, generator("gold fit", task, name))
        turn = measured_turn(list(curves.values()))
        found.append(GoldCurve(name, tuple(labels), form, curves, start, fit, turn))
    return found


def _groups(results: RunData, task: str) -> dict[str, list[str]]:
    """Labels that make a curve together, by its name."""
    algorithms = {
        str(row.label): str(row.algorithm) for row in results.final[results.final["task"] == task].itertuples()
    }
    groups: dict[str, list[str]] = {}
    for label in results.labels(task):
        if label in algorithms and label not in results.untrained:
            groups.setdefault(algorithms[label] if label in results.not_learning else label, []).append(label)
    return groups


def _points(cells: pd.DataFrame, kl: str, fixed: bool) -> Curve:
    """One seed's points, the reference first."""
    start = float(cells.groupby("label", observed=True)["gold"].first().mean())
    if fixed:
        ends = cells.groupby("label", sort=False, observed=True).last().sort_values(kl)
        distance = np.concatenate([[0.0], np.sqrt(ends[kl].to_numpy(dtype=np.float64).clip(0))])
        gold = np.concatenate([[start], ends["gold"].to_numpy(dtype=np.float64)])
    else:
        distance = np.sqrt(cells[kl].to_numpy(dtype=np.float64).clip(0))
        gold = cells["gold"].to_numpy(dtype=np.float64)
    return Curve(distance, gold - start)


def table(results: RunData) -> pd.DataFrame:
    """One row per task and contestant: measured peak and fall, both coefficients with intervals, R², a statement."""
    rows = []
    for task in results.task_names():
        for curve in gold_curves(results, task):
            row: dict[str, object] = {"task": task, "contestant": curve.name, "seeds": len(curve.curves)}
            if curve.turn is not None:
                turn = curve.turn
                row |= {"peak_distance": turn.distance, "peak_gain": turn.gain, "end_distance": turn.end_distance}
                row |= {"end_gain": turn.end_gain, "fall": turn.fall.value}
                row |= {"fall_low": turn.fall.low, "fall_high": turn.fall.high}
            row["form"] = FORMULAS[curve.form]
            if curve.fit is not None:
                for name in ("a", "b", "peak"):
                    estimate = getattr(curve.fit, name)
                    fit_name = "fit_peak" if name == "peak" else name
                    row |= {
                        fit_name: estimate.value,
                        f"{fit_name}_low": estimate.low,
                        f"{fit_name}_high": estimate.high,
                    }
                row["r_squared"] = curve.fit.r_squared
            row["statement"] = statement(curve)
            rows.append(row)
    return pd.DataFrame(rows)


def statement(curve: GoldCurve) -> str:
    """What fit and measured fall support, or why there is no fit."""
    if curve.fit is None or curve.turn is None:
        return "too few evaluations away from the reference to fit"
    return curve.fit.statement(curve.turn.fall)


def sentences(results: RunData, task: str) -> list[str]:
    """Contestants whose gold fell past its peak, by how much, and those whose did not; empty where the task has no gold."""
    fell, held = [], []
    for curve in gold_curves(results, task):
        turn = curve.turn
        if turn is None:
            continue
        # The interval has to exclude zero; a single seed has none.
        if turn.fall.low > 0:
            fell.append(
                f"{curve.name} (peak +{number(turn.gain)} at √KL {number(turn.distance)}, then down by "
                f"{number(turn.fall.value)}, {number(turn.fall.low)} to {number(turn.fall.high)})"
            )
        elif np.isfinite(turn.fall.low):
            held.append(curve.name)
    found = []
    if fell:
        shown = [*fell[:4], f"{len(fell) - 4} more"] if len(fell) > 5 else fell
        found.append(f"Past its peak gold fell for {'; '.join(shown)}.")
    if held:
        shown = [*held[:7], f"{len(held) - 7} more"] if len(held) > 8 else held
        found.append(f"No fall of gold past its peak that the seeds agree on: {', '.join(shown)}.")
    return found


HEAD = (
    "contestant",
    "best gold",
    "at √KL",
    "gold at the end",
    "at √KL",
    "fall from the best",
    "a",
    "b",
    "R²",
    "what the fit supports",
)
"""Columns of the report's table."""


def table_rows(results: RunData, task: str) -> list[list[str]]:
    """The report's table in words and rounded numbers; gold is counted from the reference's."""
    rows = []
    for curve in gold_curves(results, task):
        turn, fit = curve.turn, curve.fit
        measured = [""] * 5
        if turn is not None:
            fall = number(turn.fall.value)
            if np.isfinite(turn.fall.low):
                fall += f" [{number(turn.fall.low)}, {number(turn.fall.high)}]"
            ends = (turn.gain, turn.distance, turn.end_gain, turn.end_distance)
            measured = [*(number(value) for value in ends), fall]
        fitted = [""] * 3
        if fit is not None:
            fitted = [_bounded(fit.a), _bounded(fit.b), number(fit.r_squared)]
        form = f"{FORMULAS[curve.form]}: " if fit is not None else ""
        rows.append([curve.name, *measured, *fitted, form + statement(curve)])
    return rows


def _bounded(estimate: Estimate) -> str:
    if not np.isfinite(estimate.low):
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"
