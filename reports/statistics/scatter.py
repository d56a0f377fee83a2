"""How much of the scatter between a task's seeds is training and how much is evaluation sampling, from what a run stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bakeoff.reports.statistics.head_to_head import final_samples
from bakeoff.reports.statistics.leaderboard import seed_scores
from bakeoff.reports.statistics.power import Components, variance_components

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

Array = NDArray[np.float64]
ERROR = "_within_se"
"""Ends the name of a metric's standard error given the prompts."""


@dataclass(frozen=True)
class Scatter:
    """What makes the scores of a task's seeds differ."""

    task: str
    metric: str
    """What the task is ranked by."""
    seeds: Mapping[str, int]
    """Finished seeds of each contestant that has two or more, in the suite's order."""
    own: Mapping[str, Components]
    """Of each such contestant by itself: 2 degrees of freedom at 3 seeds say little."""
    pooled: Mapping[str, Components]
    """Of each such contestant, pooled over those that learn, or over those that do not."""
    learners: Sequence[str]
    """Those that learn."""

    @property
    def contestants(self) -> int:
        """Those that are compared, at least two."""
        return max(len(self.seeds), 2)

    @property
    def pair(self) -> tuple[Components, Components]:
        """Two contestants of the kind to be compared: two that learn, where there are two."""
        order = sorted(self.seeds, key=lambda label: label not in self.learners)
        return self.pooled[order[0]], self.pooled[order[min(1, len(order) - 1)]]

    @property
    def typical_seeds(self) -> int:
        """Seeds that at least half of the contestants have."""
        return median_low(self.seeds.values())

    def variances(self, one: str, other: str) -> tuple[float, float]:
        """Variances of a seed's score of two contestants."""
        return self.pooled[one].total, self.pooled[other].total


def scatter(results: RunData, task: str, labels: Sequence[str] | None = None) -> Scatter | None:
    """The scatter of a task's scores; ``None`` where no contestant has two finished seeds.

    Args:
        results: what was read.
        task: which task.
        labels: these contestants alone; by default all of the task's.

    Returns:
        Its parts. The evaluation's error is the stored standard error given the prompts. Where no row has one, because no
        prompt is answered twice, it comes from the stored samples: scores less what the prompt and the seed add to all.
        That residual also holds what a seed learned about single prompts, so it is an upper bound. With less than that it is
        unknown.
    """
    metric = results.primary_metric(task)
    scores = {label: seed_scores(results, task, label, metric) for label in labels or results.labels(task)}
    scores = {label: values for label, values in scores.items() if len(values) > 1}
    if not scores:
        return None
    errors = {label: _evaluation_error(results, task, label, metric) for label in scores}
    completions = 0 if metric == "normalized_score" else completions_per_evaluation(results, task)
    learners = [label for label in scores if label not in results.not_learning]
    groups = [learners, [label for label in scores if label not in learners]]
    pooled = {
        label: variance_components([scores[one] for one in group], [errors[one] for one in group], completions)
        for group in groups
        for label in group
    }
    own = {label: variance_components([scores[label]], errors[label], completions) for label in scores}
    return Scatter(task, metric, {label: len(values) for label, values in scores.items()}, own, pooled, learners)


def _evaluation_error(results: RunData, task: str, label: str, metric: str) -> float:
    """Variance of the error of a contestant's last evaluations, the mean over its seeds; NaN where unknown."""
    if metric == "normalized_score":
        return 0.0
    final = results.final[(results.final["task"] == task) & (results.final["label"] == label)]
    final = final[np.isfinite(final[metric].to_numpy(dtype=np.float64))]
    if metric + ERROR in final:
        errors = final[metric + ERROR].to_numpy(dtype=np.float64)
        if np.isfinite(errors).all():
            return float(np.mean(errors**2))
    completions = completions_per_evaluation(results, task)
    rows = final_samples(results, task)
    rows = rows[rows["label"] == label]
    beta = float(results.tasks[task].get("kl_coef") or 0.0) if metric == "objective" else 0.0
    values = rows["proxy"].astype(float) - (beta * rows["kl"].astype(float) if beta else 0.0)
    variance = within_prompts(rows.assign(value=values))
    return variance / completions if completions else math.nan


def within_prompts(rows: pd.DataFrame) -> float:
    """Variance of one completion's value given prompt and seed; NaN where the rows cannot show it.

    Args:
        rows: columns seed, prompt_index, value; rows without a finite value are left out.
    """
    rows = rows.dropna(subset=["prompt_index"])
    rows = rows[np.isfinite(rows["value"].to_numpy(dtype=np.float64))]
    groups = rows.groupby(["seed", "prompt_index"], observed=True)["value"]
    if len(rows) > groups.ngroups:
        residual = (rows["value"] - groups.transform("mean")).to_numpy(dtype=np.float64)
        return float(residual @ residual) / (len(rows) - groups.ngroups)
    table = rows.pivot_table(index="seed", columns="prompt_index", values="value").dropna(axis=1)
    seeds, prompts = table.shape
    if min(seeds, prompts) < 2:
        return math.nan
    values = table.to_numpy(dtype=np.float64)
    both = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((both**2).sum()) / ((seeds - 1) * (prompts - 1))


def completions_per_evaluation(results: RunData, task: str) -> int:
    """Completions of one evaluation, the fewest where cells differ; 0 where the run does not say."""
    found = []
    for entry in results.entries:
        if entry.task == task and entry.cell.status == "done":
            evaluate = entry.cell.config.get("evaluate")
            count = evaluate.get("completions") if isinstance(evaluate, dict) else None
            found.append(count if isinstance(count, int) else 0)
    return min(found, default=0)
