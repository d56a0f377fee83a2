"""A plan as lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bakeoff.reports.analysis.detectable import parts
from bakeoff.reports.analysis.planning import Option, Plan, TaskPlan
from bakeoff.reports.data.text import count, number
from bakeoff.reports.statistics.power import MOST_SEEDS

_METERS = {
    "reward_queries": "reward queries",
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
}


def plan_lines(plan: Plan) -> list[str]:
    """What each task needs, the options with their costs, and how to read them."""
    lines = [line for task in plan.tasks for line in [*_task_lines(task, plan), ""]]
    lines += _table(plan)
    lines += [
        "",
        "Seconds are those of the pilot's cells with their evaluations, added up; several cells run at once.",
        "Assumed: scores scatter normally and as in the pilot, around the same prompts; contestants are compared as if their "
        "seeds were independent.",
    ]
    lines += [
        f"Note: {task.scatter.task} is evaluated on one prompt, so the plan holds for that prompt alone."
        for task in plan.tasks
        if task.prompts == 1
    ]
    return lines


def _task_lines(task: TaskPlan, plan: Plan) -> list[str]:
    found = task.scatter
    several = f" over {found.contestants - 1} comparisons" if found.contestants > 2 else ""
    one, _ = found.pair
    low, high = (_seeds(count) for count in task.seeds_range)
    at = f" at {plan.pilot_completions:,} completions" if one.completions else ""
    lines = [
        f"{found.task}: a difference of {number(plan.difference)} in {found.metric.replace('_', ' ')}, found with 80 % power "
        f"(5 % error{several})",
        f"  pilot: {found.typical_seeds} seeds, which find {number(task.detects)}",
        f"  {parts(one)}",
        *_contestants(task),
        f"  needed: {_seeds(task.seeds)} seeds{at}; {low} to {high} over the 95 % interval of the scatter "
        f"({one.freedom} degrees of freedom)",
    ]
    if one.completions and task.seeds_if_exact is not None:
        # Where the pilot shows no training scatter, the two seeds that exact evaluation would need say nothing.
        exact = f"; evaluation without any error would need {_seeds(task.seeds_if_exact)} seeds" if one.training else ""
        lines.append(f"  {_dominant(task)}{exact}")
    return lines


def _dominant(task: TaskPlan) -> str:
    share = sum(part.evaluation for part in task.scatter.pair) / sum(part.total for part in task.scatter.pair)
    if share < 0.5:
        return "training dominates: seeds count more than completions"
    return "evaluation sampling dominates: completions count as much as seeds"


def _contestants(task: TaskPlan) -> list[str]:
    found = task.scatter
    rows = [("contestant", "seeds", "deviation", "training", "evaluation")]
    for label, own in found.own.items():
        evaluation = "–" if math.isnan(own.evaluation) else number(math.sqrt(own.evaluation))
        training = "–" if math.isnan(own.evaluation) else number(math.sqrt(own.training))
        rows.append((label, str(found.seeds[label]), number(math.sqrt(own.observed)), training, evaluation))
    return ["  " + line for line in _aligned(rows)]


def _table(plan: Plan) -> list[str]:
    names = [name for name in _METERS if any(option.meters[name] for option in plan.options)]
    evaluated = any(option.evaluated for option in plan.options)
    head = ["seeds", *(["completions"] if evaluated else []), "cells", *(_METERS[name] for name in names)]
    head += [*(["evaluated completions"] if evaluated else []), "seconds", ""]

    def row(option: Option) -> list[str]:
        return [
            f"{option.seeds:,}",
            *([f"{option.completions:,}"] if evaluated else []),
            f"{option.cells:,}",
            *(count(option.meters[name]) for name in names),
            *([count(option.evaluated)] if evaluated else []),
            count(option.wall_seconds),
            "cheapest" if option is plan.cheapest and len(plan.options) > 1 else "",
        ]

    return _aligned([head, *(row(option) for option in plan.options)])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *rest = zip(*rows, strict=True)
    columns = [[cell.ljust(widths[0]) for cell in first]]
    columns += [[cell.rjust(width) for cell in column] for column, width in zip(rest, widths[1:], strict=True)]
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _seeds(seeds: int | None) -> str:
    return f"more than {MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"
