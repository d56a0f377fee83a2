"""The verdict in sentences, which claim no more than the numbers support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bakeoff.reports.analysis import disclosure, standing
from bakeoff.reports.analysis.detectable import detectable
from bakeoff.reports.analysis.gold_curves import sentences
from bakeoff.reports.analysis.hacking import summaries
from bakeoff.reports.analysis.standing import names, one_reward
from bakeoff.reports.data.entries import family
from bakeoff.reports.data.text import count, number, one_line
from bakeoff.reports.statistics.coverage import coverage_at
from bakeoff.reports.statistics.findings import comparisons

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

SCORE_NAMES = {
    "normalized_score": "normalized score",
    "objective": "objective (proxy − β · KL)",
    "proxy": "proxy reward",
}


@dataclass(frozen=True)
class TaskAnswer:
    """The verdict on one task."""

    task: str
    headline: str
    """One sentence."""
    details: Sequence[str]
    """Sentences on certainty, cost and signs of reward hacking."""


def answers(results: RunData, board: pd.DataFrame) -> list[TaskAnswer]:
    """One answer per task, from the leaderboard."""
    return [_answer(results, task, board[board["task"] == task]) for task in results.task_names()]


def _answer(results: RunData, task: str, board: pd.DataFrame) -> TaskAnswer:
    ranked = board[board["seeds"] > 0]
    if ranked.empty:
        return TaskAnswer(task, "No cell of this task has finished, so nothing can be said yet.", [])
    best = ranked.iloc[0]
    metric = SCORE_NAMES.get(best["metric"], best["metric"])
    mean = f"{metric} {number(best['mean'])}{_interval_text(best)}"
    if len(ranked) == 1:
        return TaskAnswer(task, f"Only {best['label']} has finished: {mean}. There is nothing to compare it with.", [])
    versus = comparisons(results, task)
    headline = one_reward(results, task)
    if headline is None:
        headline, compared = standing.headline(ranked, versus, mean), standing.details(results, ranked, versus)
    else:
        compared = []
    absent = board.loc[board["seeds"] == 0, "label"]
    details = [f"Not compared, because none of their cells counts: {names(absent)}."] if len(absent) else []
    partly = ranked[ranked["seeds"] < ranked["planned"]]
    if len(partly):
        counted = names(f"{row['label']} ({row['seeds']} of {row['planned']})" for _, row in partly.iterrows())
        details.append(f"Not every seed counts: {counted}; excluding failed runs may bias them upward.")
    details += compared
    level = versus.loc[versus["finding"] == "level", "other"]
    details += detectable(results, task, str(best["label"]), list(level)) if compared else []
    details += _frontier_and_cost(ranked)
    details += _settings(results, list(ranked["label"]))
    details += disclosure.tuning(results, list(ranked["label"]))
    details += sentences(results, task)
    details += suspicions(results, task)
    return TaskAnswer(task, headline, details)


def _interval_text(row: pd.Series) -> str:
    seeds = int(row["seeds"])
    low, high = row.get("mean_low", np.nan), row.get("mean_high", np.nan)
    of = "1 seed, no interval" if seeds == 1 else f"{seeds} seeds"
    if not np.isfinite(low):
        return f" ({of})"
    if low == high:
        return f" (the same for all {of})"
    return f" (95 % interval {number(low)} to {number(high)}, {of})"


def _frontier_and_cost(ranked: pd.DataFrame) -> list[str]:
    sentences = []
    if "on_frontier" in ranked and {"proxy", "kl"} <= set(ranked):
        front = ranked[ranked["on_frontier"].astype(bool)].sort_values("kl")
        if len(front) == len(ranked):
            sentences.append("All contestants are on the reward-KL frontier by their means: more KL, more reward.")
        elif len(front):
            listed = names(f"{row['label']} ({number(row['kl'], 2)} nats)" for _, row in front.iterrows())
            sentences.append(
                f"On the reward-KL frontier by their means (no other contestant has more reward for less KL): {listed}."
            )
    best = ranked.iloc[0]
    spent = [f"{row['label']} {cost}" for _, row in ranked.iterrows() if (cost := _spent(row))]
    if spent:
        more = [f"{len(spent) - 5} more in the table below"] if len(spent) > 5 else []
        sentences.append(f"Cost per seed: {'; '.join(spent[:5] + more)}.")
    queries = best.get("queries_per_answer", np.nan)
    if queries > 1:
        needed = f"{best['label']} needs {number(queries, 0)} reward queries per answer at inference"
        sentences.append(f"{needed}; contestants that learn need none.")
    return sentences


def _spent(row: pd.Series) -> str:
    meters = (
        ("reward_queries", "reward queries"),
        ("generated_tokens", "generated tokens"),
        ("trained_tokens", "trained tokens"),
        ("seconds", "seconds"),
    )
    return ", ".join(_spending(row[name], title) for name, title in meters if row.get(name, 0) > 0)


def _spending(value: float, title: str) -> str:
    return "under a second" if title == "seconds" and value < 1 else f"{count(value)} {title}"


def settings_of(results: RunData, label: str) -> Mapping[str, Any] | None:
    """Settings of a contestant that differ from the algorithm's defaults, with its point in a sweep; ``None`` if unknown."""
    entry = next(entry for entry in results.entries if entry.label == label)
    run = next(run for run in results.runs if entry.cell in run.cells)
    suite = run.manifest.get("suite")
    algorithms = suite.get("algorithms") if isinstance(suite, dict) else None
    base, _, point = entry.cell.label.partition("[")
    if not isinstance(algorithms, dict) or base not in algorithms:
        return None
    own = algorithms[base] if isinstance(algorithms[base], dict) else {}
    chosen = {key: value for key, value in own.items() if key != "algorithm"}
    for part in point.rstrip("]").split(",") if point else []:
        key, _, value = part.partition("=")
        chosen[key] = value
    return chosen


def _settings(results: RunData, labels: Sequence[str]) -> list[str]:
    chosen = {label: settings_of(results, label) for label in labels if label not in results.untrained}
    default = [label for label, settings in chosen.items() if settings == {}]
    if len(default) == len(chosen):
        return ["Every contestant ran at its default settings; tuning could change the order."]
    swept = dict.fromkeys(family(label) for label in chosen if family(label) != label)
    own = [f"{name} (each point of a sweep)" for name in swept]
    own += [
        f"{label} ({one_line(_pairs(settings), 80)})"
        for label, settings in chosen.items()
        if settings and family(label) == label
    ]
    if not own:
        return []
    return [f"Not at default settings: {names(own)}" + (f"; at defaults: {names(default)}." if default else ".")]


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {'null' if value is None else value}" for key, value in settings.items())


def suspicions(results: RunData, task: str) -> list[str]:
    """Signs of reward hacking: gold falls while the proxy rises, or the text collapses.

    The text of enumerable tasks is not judged, because their completions are not language.
    """
    found = summaries(results, task)
    if len(found) > 5:
        found = [*found[:5], f"{len(found) - 5} more"]
    return [f"Signs of reward hacking (read the samples): {'; '.join(found)}."] if found else []


def caveats(results: RunData) -> list[str]:
    """Limits of the data: cells that are not in any mean, too few seeds, damaged files."""
    notes = []
    cells = results.cells
    for status, words in (
        ("failed", "failed"),
        ("missing", "never started"),
        ("pending", "not started yet"),
        ("running", "not finished (running, or interrupted)"),
        ("damaged", "unreadable"),
    ):
        those = cells[cells["status"] == status]
        if len(those):
            listed = [f"{row.task} / {row.label} / seed {row.seed}" for row in those.head(6).itertuples()]
            more = f" and {len(those) - 6} more" if len(those) > 6 else ""
            why = " (errors: see the table of cells)" if status in ("failed", "damaged") else ""
            word = "cell" if len(those) == 1 else "cells"
            notes.append(f"{len(those)} {word} {words}, in no average: {'; '.join(listed)}{more}{why}.")
    torn = int(cells["torn_lines"].sum())
    if torn:
        notes.append(f"{torn} unreadable line{'s' * (torn > 1)} of metrics.jsonl left out (an interrupted write).")
    notes += _changed_versions(results)
    notes += disclosure.outside_the_meter(results)
    notes += _unscored(results)
    sizes = results.final.groupby(["task", "label"], observed=True).size()
    few = sorted({int(size) for size in sizes if size < 10})
    if 1 in few:
        notes.append("Some contestants have one seed: there is no interval, and chance cannot be ruled out.")
    shares = " and ".join(f"{100 * coverage_at(n):.0f} % at {n} seeds" for n in few if n > 1)
    if shares:
        notes.append(
            "With so few seeds a nominal 95 % bootstrap interval contains the true mean less often than that: about "
            f"{shares} (measured on simulated normal scores), so the intervals are too narrow. “Beyond noise” "
            "does not rest on them: it asks for so many standard errors that at most one report in twenty claims wrongly."
        )
    notes.append(
        "Intervals are over seeds. All contestants get the same prompts, so intervals say nothing about other prompts."
    )
    return notes


def _changed_versions(results: RunData) -> list[str]:
    """Runs that were resumed with other versions of their dependencies than they started with."""
    notes = []
    for run in results.runs:
        begun = {"bakeoff": run.manifest.get("bakeoff"), **(run.manifest.get("versions") or {})}
        changed = {
            str(name): f"{begun.get(name)} to {version}"
            for change in run.manifest.get("later_versions") or ()
            for name, version in change.get("versions", {}).items()
        }
        if changed:
            listed = names(f"{name} ({change})" for name, change in changed.items())
            notes.append(f"Run {run.name} was resumed with other versions than it started with: {listed}.")
    return notes


def _unscored(results: RunData) -> list[str]:
    """Cells that finished without a finite value of what their task is ranked by: a policy that diverged, for instance."""
    notes = []
    for task in results.task_names():
        metric = results.primary_metric(task)
        rows = results.final[results.final["task"] == task]
        lacking = rows if metric not in rows else rows[~np.isfinite(rows[metric].astype(float))]
        if len(lacking):
            who = names(f"{row.label} / seed {row.seed}" for row in lacking.itertuples())
            notes.append(f"On {task} these cells finished without a finite {metric} and are in no average: {who}.")
    return notes
