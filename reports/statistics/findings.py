"""What a run's scores show: the best contestant against each other one, and each one against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bakeoff.reports.statistics.comparisons import ALPHA, Difference, Scores, differences
from bakeoff.reports.statistics.estimates import Estimate, probability_of_improvement
from bakeoff.reports.statistics.leaderboard import EXACT, generator

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

ALWAYS_EXACT = frozenset({"normalized_score", *EXACT.values()})
"""Metrics that are computed over all completions."""


def scores_of(results: RunData, task: str, label: str, metric: str) -> Scores:
    """Final values of a metric with what is known of their errors: none where the metric is exact."""
    final = results.final
    chosen = final[(final["task"] == task) & (final["label"] == label)]
    if metric not in chosen:
        return Scores(np.empty(0))
    chosen = chosen[np.isfinite(chosen[metric].to_numpy(dtype=np.float64))]
    values = chosen[metric].to_numpy(dtype=np.float64)
    if metric in ALWAYS_EXACT:
        return Scores(values, exact=True)
    errors = np.full(len(values), np.nan)
    for name in (f"{metric}_se", f"{metric}_within_se"):  # all seeds answer the same prompts, so the latter where known
        if name in chosen:
            stored = chosen[name].to_numpy(dtype=np.float64)
            errors = np.where(np.isfinite(stored), stored, errors)
    bound = metric == "objective" and "kl_is_bound" in chosen and bool((chosen["kl_is_bound"] > 0).any())
    return Scores(values, errors, _completions(results, task, label), lower_bound=bound)


def comparisons(results: RunData, task: str, metric: str | None = None) -> pd.DataFrame:
    """The best contestant of a task compared with each other one, by what the task is ranked by or by another metric.

    Columns: label, other, difference of means with an interval (low, high) and a p that hold for all pairs of the
        task's contestants (see :func:`~bakeoff.reports.statistics.comparisons.differences`), exact, finding, improvement
        (probability that a run of ``label`` beats one of ``other``) with its bootstrap interval, NaN where either has one
        seed. The finding is ``ahead`` (beyond noise), ``level`` (not told apart), ``equal`` (the same mean), ``bound``
        (beyond noise, but the other's score is only a lower bound, so nothing is claimed) or ``unknown`` (a single seed,
        or figures of unknown error without scatter).
        Empty with fewer than two contestants that have a finished seed.
    """
    metric = metric or results.primary_metric(task)
    scores = _all_scores(results, task, metric)
    labels = list(scores)
    pairs = [(0, other) for other in range(1, len(labels))]
    rows = []
    for (_, at), difference in zip(pairs, differences(pairs, list(scores.values())), strict=True):
        best, other = labels[0], labels[at]
        mine, theirs = scores[best], scores[other]
        chance = Estimate(np.nan, np.nan, np.nan)
        if min(len(mine.values), len(theirs.values)) > 1:  # of one seed it could only be 0, .5 or 1
            rng = generator("improvement", task, best, other)
            chance = probability_of_improvement([mine.values], [theirs.values], rng=rng)
        rows.append(
            {
                "label": best,
                "other": other,
                "difference": difference.value,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p,
                "exact": mine.exact and difference.low == difference.high,
                "finding": _finding(difference, mine, theirs),
                "improvement": chance.value,
                "improvement_low": chance.low,
                "improvement_high": chance.high,
            }
        )
    return pd.DataFrame(rows)


def against_reference(results: RunData, task: str, metric: str | None = None) -> pd.DataFrame:
    """Each contestant of a task compared with the reference: a family of its own, one comparison a contestant.

    Columns: other, difference (contestant less reference), low, high, p, finding: ``above``, ``below`` or one of
        :func:`comparisons`'s. Empty where no untrained contestant played.
    """
    metric = metric or results.primary_metric(task)
    scores = _all_scores(results, task, metric)
    labels = list(scores)
    reference = next((at for at, label in enumerate(labels) if label in results.untrained), None)
    if reference is None:
        return pd.DataFrame()
    pairs = [(at, reference) for at, label in enumerate(labels) if label not in results.untrained]
    rows = []
    for (at, _), difference in zip(pairs, differences(pairs, list(scores.values())), strict=True):
        mine, theirs = scores[labels[at]], scores[labels[reference]]
        if difference.value < 0:
            finding = _finding(difference, theirs, mine)
            finding = "below" if finding == "ahead" else finding
        else:
            finding = _finding(difference, mine, theirs)
            finding = "above" if finding == "ahead" else finding
        rows.append({"other": labels[at], **difference._asdict(), "finding": finding})
    return pd.DataFrame(rows).rename(columns={"value": "difference"})


def _all_scores(results: RunData, task: str, metric: str) -> dict[str, Scores]:
    """Of each contestant with a finished seed, the best mean first."""
    found = {label: scores_of(results, task, label, metric) for label in results.labels(task)}
    ranked = sorted((label for label in found if len(found[label].values)), key=lambda x: -found[x].values.mean())
    return {label: found[label] for label in ranked}


def _finding(difference: Difference, higher: Scores, lower: Scores) -> str:
    """What may be said of two contestants, the one with the higher mean first."""
    if difference.value == 0:
        return "equal"
    if np.isnan(difference.p):
        return "unknown"
    if difference.p >= ALPHA:
        return "level"
    return "bound" if lower.lower_bound else "ahead"


def _completions(results: RunData, task: str, label: str) -> float:
    """Completions of an evaluation, on average over cells; 0 where a cell does not say."""
    asked = [e.cell.config.get("evaluate") for e in results.entries if (e.task, e.label) == (task, label)]
    counts = [one.get("completions") if isinstance(one, dict) else None for one in asked]
    known = [float(n) for n in counts if isinstance(n, int | float) and np.isfinite(n) and n > 0]
    return float(np.mean(known)) if known and len(known) == len(counts) else 0.0
