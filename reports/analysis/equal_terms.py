"""Contestants on equal terms: at equal KL, at equal cost, and at the checkpoint that gold would choose.

The leaderboard compares where each contestant ended. These views read its score elsewhere on its way there, so that a
contestant is not ranked by how far its settings let it go. Contestants that do not learn have no way: they are points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bakeoff.reports.data.store_reader import METERS
from bakeoff.reports.statistics.estimates import Estimate
from bakeoff.reports.statistics.leaderboard import best_column
from bakeoff.reports.statistics.paths import (
    chosen_on_other_seeds,
    mean_over_seeds,
    score_where_reached,
    score_within,
)

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

Array = NDArray[np.float64]
Kind = Literal["path", "point", "not reached", "one seed"]
UNMOVED = 1e-3
"""A KL, in nats, that is too small to compare contestants at."""


@dataclass(frozen=True)
class Reading:
    """One contestant's score under one view."""

    task: str
    label: str
    view: str
    """``end``, ``kl``, the name of a meter, or ``best_gold``."""
    level: float
    """The KL in nats or the spend; NaN for the other views."""
    metric: str
    value: float
    low: float
    high: float
    """Ends of Student's 95 % interval over seeds; NaN at one seed."""
    seeds: int
    """Finished seeds."""
    reached: int
    """Those of them that have a score under this view; without all of them there is no value."""
    kl: float
    """Mean KL where the score was read."""
    kind: Kind
    """``path``: read on its way; ``point``: it does not learn, so it stands where it is; ``not reached``: some seed has no
    score there; ``one seed``: nothing else could choose its checkpoint."""


def common_kls(results: RunData, task: str) -> list[float]:
    """KLs to compare at: the largest that every learner reached in every seed, and the largest that at least half did.

    One where both are the same; a KL at which some learner has hardly moved is left out.
    """
    rows = results.evaluations[results.evaluations["task"] == task]
    kl = best_column(rows, "kl")
    if kl not in rows:
        return []
    reach = []
    for label in _learners(results, task):
        largest = rows[rows["label"] == label].groupby(["run", "seed"], observed=True)[kl].max()
        if largest.notna().any():
            reach.append(float(largest.min()))
    if not reach:
        return []
    half = sorted(reach, reverse=True)[(len(reach) - 1) // 2]
    return [level for level in dict.fromkeys([min(reach), half]) if level >= UNMOVED]


def common_spends(results: RunData, task: str) -> dict[str, float]:
    """By meter: the largest total that every learner that spends any of it reached in every seed."""
    rows = results.final[(results.final["task"] == task) & results.final["label"].isin(_learners(results, task))]
    found = {}
    for meter in METERS:
        spent = rows[meter][rows[meter] > 0]
        if len(spent):
            found[meter] = float(spent.min())
    return found


def at_kl(results: RunData, task: str, kl: float, metric: str = "proxy") -> list[Reading]:
    """Each contestant's score where it first reached a KL, linear in KL between its evaluations."""
    return [
        _reading(path, "kl", kl, [score_where_reached(seed.kl, seed.scores, kl) for seed in path.seeds])
        for path in _paths(results, task, metric)
    ]


def at_spend(results: RunData, task: str, meter: str, spend: float, metric: str | None = None) -> list[Reading]:
    """Each contestant's score for a spend on one meter, linear between its evaluations; by default what ranks the task.

    A contestant that does not learn has its score at any spend that covers what it cost.
    """
    return [
        _reading(path, meter, spend, [score_within(seed.spent[meter], seed.scores, spend) for seed in path.seeds])
        for path in _paths(results, task, metric or results.primary_metric(task))
    ]


def at_best_gold(results: RunData, task: str) -> list[Reading]:
    """Each contestant's gold at the checkpoint that gold would choose: on the other seeds, judged on the one left out.

    Evaluations are matched by their number; a seed that stopped early stays at its last. With one seed nothing else could
    choose, and there is no value.
    """
    found = []
    for path in _paths(results, task, "gold"):
        if not path.learns or len(path.seeds) < 2:
            found.append(_reading(path, "best_gold", np.nan, [np.nan for _ in path.seeds]))
            continue
        length = max(len(seed.scores) for seed in path.seeds)
        held = chosen_on_other_seeds([_extended(seed.scores, length) for seed in path.seeds])
        kls = [float(_extended(seed.kl, length)[k]) for seed, k in zip(path.seeds, held.chosen, strict=True)]
        found.append(replace(_reading(path, "best_gold", np.nan, held.scores), kl=float(np.mean(kls))))
    return found


def at_end(results: RunData, task: str, metric: str) -> list[Reading]:
    """Each contestant's score at its last evaluation, which is what the leaderboard ranks."""
    return [
        _reading(path, "end", np.nan, [float(seed.scores[-1]) for seed in path.seeds])
        for path in _paths(results, task, metric)
    ]


def equal_terms(results: RunData) -> pd.DataFrame:
    """All views of all tasks, one row per task, view, level, metric and contestant; columns as :class:`Reading`."""
    return frame(reading for task in results.task_names() for reading in readings(results, task))


def frame(found: Iterable[Reading]) -> pd.DataFrame:
    """Readings as rows."""
    return pd.DataFrame([asdict(reading) for reading in found], columns=[field.name for field in fields(Reading)])


def readings(results: RunData, task: str) -> list[Reading]:
    """All views of one task at the common KLs and spends; none without a contestant that learned."""
    key = ("equal_terms", task)
    if key not in results.memo:  # page and table need it
        results.memo[key] = _all_readings(results, task)
    found: list[Reading] = results.memo[key]
    return found


def _all_readings(results: RunData, task: str) -> list[Reading]:
    if not any(path.learns for path in _paths(results, task, results.primary_metric(task))):
        return []
    found = at_end(results, task, results.primary_metric(task))
    for metric in ("proxy", "gold"):
        for kl in common_kls(results, task):
            found += at_kl(results, task, kl, metric)
    for meter, spend in common_spends(results, task).items():
        found += at_spend(results, task, meter, spend)
    return [*found, *at_end(results, task, "gold"), *at_best_gold(results, task)]


@dataclass(frozen=True)
class _Seed:
    """One seed's evaluations in turn."""

    scores: Array
    kl: Array
    spent: Mapping[str, Array]


@dataclass(frozen=True)
class _Path:
    """One contestant's way."""

    task: str
    label: str
    metric: str
    learns: bool
    seeds: Sequence[_Seed]
    """A contestant that does not learn has one evaluation in each: its last."""


def _paths(results: RunData, task: str, metric: str) -> list[_Path]:
    """Contestants with finished seeds in the order of the suite; none where the metric was not measured."""
    key = ("paths", task, metric)
    if key not in results.memo:
        results.memo[key] = _read_paths(results, task, metric)
    found: list[_Path] = results.memo[key]
    return found


def _read_paths(results: RunData, task: str, metric: str) -> list[_Path]:
    rows = results.evaluations[results.evaluations["task"] == task]
    column, kl = best_column(rows, metric), best_column(rows, "kl")
    if column not in rows:
        return []
    found = []
    for label in results.labels(task):
        learns = label not in results.not_learning
        mine = rows[(rows["label"] == label) & np.isfinite(rows[column].astype(float))]
        seeds = []
        for _, evaluations in mine.groupby(["run", "seed"], observed=True, sort=False):
            kept = evaluations if learns else evaluations.tail(1)
            numbers = {name: kept[name].to_numpy(dtype=np.float64) for name in (column, *METERS)}
            kls = kept[kl].to_numpy(dtype=np.float64) if kl in kept else np.full(len(kept), np.nan)
            seeds.append(_Seed(numbers[column], kls, {meter: numbers[meter] for meter in METERS}))
        if seeds:
            found.append(_Path(task, label, metric, learns, seeds))
    return found


def _reading(path: _Path, view: str, level: float, scores: Sequence[float] | Array) -> Reading:
    """The mean over seeds; a contestant that does not learn keeps its own score where KL or gold choose."""
    values = np.asarray(scores, dtype=np.float64)
    kind: Kind = "path"
    if not path.learns:
        kind = "point"
        if view in ("kl", "best_gold"):
            values = np.array([float(seed.scores[-1]) for seed in path.seeds])
    reached = int(np.isfinite(values).sum())
    estimate = mean_over_seeds(values) if reached == len(values) else Estimate(np.nan, np.nan, np.nan)
    if reached < len(values):
        kind = "one seed" if view == "best_gold" else "not reached"
    kl = float(np.mean([seed.kl[-1] for seed in path.seeds]))
    if path.learns and view != "end":
        kl = level if view == "kl" and kind == "path" else np.nan
    return Reading(path.task, path.label, view, level, path.metric, *estimate, len(values), reached, kl, kind)


def _extended(values: Array, length: int) -> Array:
    return np.concatenate([values, np.repeat(values[-1:], length - len(values))])


def _learners(results: RunData, task: str) -> list[str]:
    return [label for label in results.labels(task) if label not in results.not_learning]
