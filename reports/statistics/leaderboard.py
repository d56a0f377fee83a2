"""The tables behind the report: the leaderboard, and the score over all tasks."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bakeoff.reports.data.store_reader import METERS
from bakeoff.reports.statistics.comparisons import pareto_set
from bakeoff.reports.statistics.estimates import (
    Estimate,
    interquartile_mean,
    optimality_gap,
    stratified_bootstrap_interval,
)

Array = NDArray[np.float64]

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

DETAILS = (
    "proxy",
    "gold",
    "kl",
    "objective",
    "win_rate",
    "length",
    "entropy",
    "distinct_2",
    "repetition",
    "queries_per_answer",
)
"""Metrics whose means the leaderboard shows beside the ranked one, where they were measured."""
EXACT = {"proxy": "exact_reward", "kl": "exact_kl", "objective": "exact_objective"}
"""Exact counterparts, preferred where they are known: they carry no sampling noise."""


def generator(*names: str) -> np.random.Generator:
    """A numpy generator that depends on names alone, so a number does not depend on what else the report holds."""
    return np.random.default_rng([zlib.crc32(name.encode("utf-8", "replace")) for name in names])


def best_column(rows: pd.DataFrame, metric: str) -> str:
    """The exact counterpart of a metric if these rows have it, else the metric itself."""
    exact = EXACT.get(metric)
    return exact if exact is not None and exact in rows and rows[exact].notna().any() else metric


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts, for templates."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def leaderboard(results: RunData) -> pd.DataFrame:
    """One row per task and contestant, tasks in suite order, best mean first.

    Columns: task, label, algorithm, metric (what it is ranked by), seeds (done), planned, mean with its 95 % percentile
    bootstrap interval over seeds (mean_low, mean_high), iqm with its own (iqm_low, iqm_high), sd; ``on_frontier`` (no
    other contestant has more reward for less KL); means of the detail metrics (exact figures where the task can be
    enumerated) and of the meters. Contestants without a finished cell have seeds 0 and no numbers. A cell that did not
    finish is in no mean.
    """
    rows = [
        _row(results, task, label, metric)
        for task in results.task_names()
        for metric in [results.primary_metric(task)]
        for label in results.labels(task)
    ]
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    order = {task: rank for rank, task in enumerate(results.task_names())}
    table["_task"] = table["task"].map(order)
    table = table.sort_values(["_task", "mean"], ascending=[True, False], kind="stable", na_position="last")
    table = table.drop(columns="_task").reset_index(drop=True)
    table.insert(list(table.columns).index("sd") + 1, "on_frontier", False)
    for _, group in table.groupby("task", sort=False):
        known = group.dropna(subset=["proxy", "kl"]) if {"proxy", "kl"} <= set(group) else group.iloc[:0]
        table.loc[known.index, "on_frontier"] = pareto_set(known["kl"], known["proxy"])
    unmeasured = [name for name in DETAILS if table[name].isna().all()]
    return table.drop(columns=unmeasured)


def _row(results: RunData, task: str, label: str, metric: str) -> dict[str, object]:
    cells = results.cells[(results.cells["task"] == task) & (results.cells["label"] == label)]
    final = results.final[(results.final["task"] == task) & (results.final["label"] == label)]
    scores = seed_scores(results, task, label, metric)
    row: dict[str, object] = {
        "task": task,
        "label": label,
        "algorithm": cells["algorithm"].iloc[0],
        "metric": metric,
        "seeds": len(scores),
        "planned": len(cells),
    }
    mean = interval(scores, "mean", task, label, metric)
    iqm = interval(scores, "iqm", task, label, metric)
    row |= {"mean": mean.value, "mean_low": mean.low, "mean_high": mean.high}
    row |= {"iqm": iqm.value, "iqm_low": iqm.low, "iqm_high": iqm.high}
    row["sd"] = float(np.std(scores, ddof=1)) if len(scores) > 1 else np.nan
    if metric in final:  # the same seeds in every column: one that ended without a finite score is in no mean
        final = final[np.isfinite(final[metric].to_numpy(dtype=np.float64))]
    for name in (*DETAILS, *METERS):
        column = best_column(final, name)
        row[name] = float(final[column].mean()) if column in final else np.nan
    return row


def interval(scores: Array, statistic: str, *names: str) -> Estimate:
    """Percentile bootstrap of the mean or the IQM over seeds; NaN without seeds."""
    if len(scores) == 0:
        return Estimate(np.nan, np.nan, np.nan)
    function = np.mean if statistic == "mean" else interquartile_mean
    return stratified_bootstrap_interval([scores], function, rng=generator(statistic, *names))


def seed_scores(results: RunData, task: str, label: str, metric: str) -> Array:
    """Final values of a metric, one per finished seed."""
    final = results.final
    if metric not in final:
        return np.empty(0)
    chosen = final[(final["task"] == task) & (final["label"] == label)]
    values = chosen[metric].to_numpy(dtype=np.float64)
    return np.asarray(values[np.isfinite(values)])


def over_tasks(results: RunData) -> pd.DataFrame:
    """Contestants over all tasks whose score is normalized (0 reference, 1 optimum): IQM with a stratified bootstrap
    interval.

    Only contestants that finished at least one seed on every such task; empty with fewer than two such tasks, since raw
    rewards of different tasks have no common unit.
    """
    tasks = [task for task in results.task_names() if results.primary_metric(task) == "normalized_score"]
    rows = []
    for label in results.labels() if len(tasks) > 1 else []:
        strata = [seed_scores(results, task, label, "normalized_score") for task in tasks]
        if any(len(scores) == 0 for scores in strata):
            continue
        iqm = stratified_bootstrap_interval(strata, interquartile_mean, rng=generator("over tasks", label))
        gap = float(np.mean([optimality_gap(scores) for scores in strata]))
        rows.append(
            {
                "label": label,
                "tasks": len(tasks),
                "seeds": sum(map(len, strata)),
                "iqm": iqm.value,
                "low": iqm.low,
                "high": iqm.high,
                "optimality_gap": gap,
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values("iqm", ascending=False, kind="stable").reset_index(drop=True) if rows else table
