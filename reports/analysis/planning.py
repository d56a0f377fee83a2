"""How many seeds and completions find a wanted difference, and what they cost, from a finished run as a pilot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bakeoff.errors import UserError
from bakeoff.reports.data.store_reader import METERS
from bakeoff.reports.statistics.power import MOST_SEEDS, detectable_difference, seeds_needed
from bakeoff.reports.statistics.scatter import Scatter, completions_per_evaluation, scatter

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

FACTORS = (0.25, 0.5, 1, 2, 4, 8)
"""Completions per evaluation that are tried, as multiples of the pilot's."""


@dataclass(frozen=True)
class Option:
    """One number of seeds with one number of completions, and its cost over all cells."""

    completions: int
    """Per evaluation."""
    seeds: int
    """Per contestant."""
    cells: int
    meters: Mapping[str, float]
    """Sums of the meter's totals, and of its seconds."""
    evaluated: float
    """Completions that evaluations sample and score, which no meter counts; the reference's one set per cell among them."""
    wall_seconds: float
    """Seconds of all cells, evaluation included, added up: several run at once."""


@dataclass(frozen=True)
class TaskPlan:
    """What one task needs."""

    scatter: Scatter
    prompts: int | None
    """Evaluation prompts."""
    detects: float
    """The smallest difference that the pilot's own seeds find."""
    seeds: int | None
    """With the pilot's completions; ``None`` for more than can be planned."""
    seeds_range: tuple[int | None, int | None]
    """The same at the ends of the 95 % interval of the pilot's scatter."""
    seeds_if_exact: int | None
    """If evaluation had no error; ``None`` too where its part is unknown."""


@dataclass(frozen=True)
class Plan:
    """Seeds and completions for a difference."""

    difference: float
    tasks: Sequence[TaskPlan]
    pilot_completions: int
    """Per evaluation of the pilot; 0 where it does not say."""
    options: Sequence[Option]
    """For each number of completions that was tried the fewest seeds, by completions."""
    cheapest: Option
    """The option with the fewest seconds."""


@dataclass(frozen=True)
class _Cost:
    """What one seed of one contestant spent on a task."""

    meters: Mapping[str, float]
    evaluations: float
    evaluating: float
    """Seconds beside learning: evaluation, loading, saving."""
    grows: bool
    """Whether evaluating takes longer with more completions."""


def plan(results: RunData, wanted: Mapping[str, Sequence[str]], difference: float) -> Plan:
    """Plan a suite from a pilot.

    Args:
        results: the pilot.
        wanted: task to the contestants to compare.
        difference: what should be found between two of them with 80 % power, in units of what the task is ranked by.

    Raises:
        UserError: a difference that is not above 0; a task or contestant without two finished seeds; nothing to compare;
            scores that do not scatter; more seeds than can be planned.
    """
    check_difference(difference)
    _check_data(results, wanted)
    found = {task: scatter(results, task, labels) for task, labels in wanted.items()}
    known = [one for one in found.values() if one is not None]
    for one in known:
        if sum(part.total for part in one.pair) <= 0:
            raise UserError(
                f"{_name(results)}: on {one.task} the scores of all {one.typical_seeds} seeds agree, so it cannot say how many are "
                "needed; run it with more seeds, or on a task where seeds differ"
            )
    tasks = [_task_plan(results, one, difference) for one in known]
    base = min(completions_per_evaluation(results, task) for task in wanted)
    costs = [_cost(results, one, label) for one in known for label in wanted[one.task]]
    options = []
    for completions in _grid(tasks, base):
        needed = [seeds_needed(difference, _variances(one, completions), one.contestants) for one in known]
        seeds = max((MOST_SEEDS + 1 if count is None else count for count in needed), default=0)
        if seeds <= MOST_SEEDS:
            options.append(_option(costs, seeds, completions, base))
    if not options:
        raise UserError(
            f"difference {difference:g}: needs more than {MOST_SEEDS:,} seeds; the pilot's own seeds find "
            f"{', '.join(f'{task.detects:.3g} on {task.scatter.task}' for task in tasks)}"
        )
    cheapest = min(options, key=lambda option: (option.wall_seconds, option.seeds))
    return Plan(difference, tasks, base, options, cheapest)


def check_difference(difference: float) -> None:
    """Raise UserError for a difference that is not above 0."""
    if not (difference > 0 and math.isfinite(difference)):
        raise UserError(f"difference {difference:g}: give a number above 0, in units of what the task is ranked by")


def _name(results: RunData) -> str:
    return ", ".join(str(run.path) for run in results.runs)


def _check_data(results: RunData, wanted: Mapping[str, Sequence[str]]) -> None:
    where = _name(results)
    counts: dict[tuple[str, str], int] = {}
    for task, labels in wanted.items():
        if len(labels) < 2:
            raise UserError(
                f"{task}: {labels[0] if labels else 'no contestant'} alone; a plan compares two contestants"
            )
        metric = results.primary_metric(task)
        done = results.final[results.final["task"] == task]
        done = done[np.isfinite(done[metric].to_numpy(dtype=np.float64))] if metric in done else done.iloc[:0]
        counts |= {(task, label): int((done["label"] == label).sum()) for label in labels}
    if not any(counts.values()):
        raise UserError(f"{where}: no finished cell of this suite; finish it with `bakeoff run SUITE --out {where}`")
    for fewest, problem in ((0, "no finished cell"), (1, "one finished seed, which cannot show how seeds scatter,")):
        those = [f"{task} / {label}" for (task, label), count in counts.items() if count == fewest]
        if those:
            listed = ", ".join(those[:6]) + (f" and {len(those) - 6} more" if len(those) > 6 else "")
            raise UserError(
                f"{where}: {problem} of {listed}; run `bakeoff run SUITE --out {where} --seeds 3`, or leave them out "
                "(--only, --task)"
            )


def _variances(found: Scatter, completions: int) -> tuple[float, float]:
    one, other = found.pair
    return one.at(completions), other.at(completions)


def _task_plan(results: RunData, found: Scatter, difference: float) -> TaskPlan:
    one, other = found.pair
    low, high = ((one.interval()[end], other.interval()[end]) for end in (0, 1))
    unknown = any(math.isnan(part.evaluation) for part in found.pair)
    prompts = results.tasks[found.task].get("evaluation_prompts")
    contestants, seeds = found.contestants, found.typical_seeds
    return TaskPlan(
        scatter=found,
        prompts=prompts if isinstance(prompts, int) else None,
        detects=detectable_difference((one.total, other.total), (seeds, seeds), contestants),
        seeds=seeds_needed(difference, (one.total, other.total), contestants),
        seeds_range=(seeds_needed(difference, low, contestants), seeds_needed(difference, high, contestants)),
        seeds_if_exact=None if unknown else seeds_needed(difference, (one.training, other.training), contestants),
    )


def _grid(tasks: Sequence[TaskPlan], base: int) -> list[int]:
    """Numbers of completions to try: the pilot's alone where more change nothing or nothing known.

    Fewer than there are prompts would evaluate on other prompts than the pilot did.
    """
    sampled = [task for task in tasks if task.scatter.pair[0].evaluation != 0 or task.scatter.pair[1].evaluation != 0]
    unknown = any(math.isnan(part.evaluation) for task in sampled for part in task.scatter.pair)
    if base == 0 or unknown or not sampled:
        return [base]
    fewest = max(2, min(base, max((task.prompts or 0 for task in sampled), default=0)))
    return sorted({round(base * factor) for factor in FACTORS if base * factor >= fewest} | {base})


def _cost(results: RunData, found: Scatter, label: str) -> _Cost:
    def of(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["task"] == found.task) & (frame["label"] == label)]

    final = of(results.final)
    cells = of(results.cells)
    wall = cells.loc[cells["status"] == "done", "wall_seconds"].astype(float).mean()
    meters = {name: float(np.nan_to_num(final[name].astype(float).mean())) for name in METERS}
    return _Cost(
        meters=meters,
        evaluations=len(of(results.evaluations)) / len(final),
        evaluating=max(float(np.nan_to_num(wall)) - meters["seconds"], 0.0),
        grows=found.metric != "normalized_score",
    )


def _option(costs: Sequence[_Cost], seeds: int, completions: int, base: int) -> Option:
    scale = completions / base if base else 1.0
    beside = sum(cost.evaluating * (scale if cost.grows else 1.0) for cost in costs)
    return Option(
        completions=completions,
        seeds=seeds,
        cells=seeds * len(costs),
        meters={name: seeds * sum(cost.meters[name] for cost in costs) for name in METERS},
        evaluated=seeds * completions * sum(cost.evaluations + 1 for cost in costs if cost.grows),
        wall_seconds=seeds * (beside + sum(cost.meters["seconds"] for cost in costs)),
    )
