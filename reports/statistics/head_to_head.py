"""Pairwise win rates: which contestant's stored answers to the same prompts the judge prefers, and ratings from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bakeoff.reports.statistics.comparisons import ratings_from_wins
from bakeoff.reports.statistics.crossed import crossed_win_rate

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

Array = NDArray[np.float64]
REFERENCE_KL = 1e-4
"""A policy with a smaller KL than this, in nats, counts as the reference."""


@dataclass(frozen=True)
class HeadToHead:
    """All pairs of a task's contestants, K of them, best rating first."""

    labels: Sequence[str]
    """The contestants."""
    judge: str
    """``gold`` where the task has such a reward, else ``proxy``."""
    rates: Array
    """How often a run of the row's contestant beats an independent run of the column's on a prompt, ties one half, shape
    (K, K); NaN where there is no rate: of a contestant and itself (it would be 1/2), or with one seed."""
    errors: Array
    """Standard errors over prompts and seeds, shape (K, K)."""
    low: Array
    """Lower ends of 95 % intervals, shape (K, K)."""
    high: Array
    """Upper ends."""
    games: NDArray[np.int64]
    """Pairs of answers compared, shape (K, K)."""
    ratings: Array
    """Bradley-Terry log-odds, shape (K,), 0 for the reference where it plays, else of mean 0. One imaginary tie between
    every two keeps the unbeaten finite. A lead of 1 means winning 73 % of the time."""

    def overall(self) -> list[tuple[float, int]]:
        """Each contestant's win rate against all others together, and from how many pairs of answers."""
        played = self.games.sum(axis=1)
        won = np.nansum(self.rates * self.games, axis=1)
        return [(float(w / n) if n else np.nan, int(n)) for w, n in zip(won, played, strict=True)]


def head_to_head(results: RunData, task: str) -> HeadToHead | None:
    """Compare the final answers of every two contestants to the same stored prompts, over pairs of different seeds.

    Contestants of one seed answer with the same random numbers, so their answers are no independent draws; those of
    different seeds are. The metric ``win_rate`` estimates the same chance against the reference, from the completions of one
    evaluation. ``None`` with fewer than two contestants that have scored answers under two seeds.
    """
    key = ("head_to_head", task)
    if key not in results.memo:
        results.memo[key] = _head_to_head(results, task)
    found: HeadToHead | None = results.memo[key]
    return found


def _head_to_head(results: RunData, task: str) -> HeadToHead | None:
    rows = final_samples(results, task)
    judge = "gold" if rows["gold"].notna().any() else "proxy"
    labels, scores = _scores(rows.dropna(subset=[judge]), judge, results.labels(task))
    if len(labels) < 2:
        return None
    shape = (len(labels), len(labels))
    rates, errors, low, high = (np.full(shape, np.nan) for _ in range(4))
    games, answers = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    for i in range(len(labels)):
        for j in range(i):
            found = crossed_win_rate(scores[i], scores[j])
            if found is not None:
                rates[i, j], rates[j, i] = found.rate, 1 - found.rate
                errors[i, j] = errors[j, i] = found.standard_error
                low[i, j], high[i, j] = found.interval()
                low[j, i], high[j, i] = 1 - high[i, j], 1 - low[i, j]
                games[i, j] = games[j, i] = found.pairs
                # No more games than answers for the ratings: pairs that share an answer are not independent.
                answers[i, j] = answers[j, i] = min(np.isfinite(scores[side]).sum() for side in (i, j))
    if not games.any():
        return None
    ratings = ratings_from_wins(np.nan_to_num(rates) * answers, prior=1, tolerance=1e-9)
    order = np.argsort(-ratings, kind="stable")
    base = [place for place, label in enumerate(labels) if label in results.untrained]
    ratings = ratings - (ratings[base[0]] if base else 0.0)
    square = np.ix_(order, order)
    tables = (rates[square], errors[square], low[square], high[square], games[square])
    return HeadToHead([labels[place] for place in order], judge, *tables, ratings[order])


def _scores(rows: pd.DataFrame, judge: str, order: Sequence[str]) -> tuple[list[str], Array]:
    """Contestants with scores in the given order, and their scores by contestant, prompt, seed and answer; NaN: no answer."""
    keys = ["label", "prompt", "seed"]
    answer = rows.groupby(keys, observed=True, sort=False).cumcount().to_numpy()
    present = set(rows["label"])
    labels = [label for label in order if label in present]
    place_N = (
        rows["label"].astype(str).map({label: place for place, label in enumerate(labels)}).to_numpy(dtype=np.int64)
    )
    prompt_N, prompts = pd.factorize(rows["prompt"])
    seed_N, seeds = pd.factorize(rows["seed"])
    scores = np.full((len(labels), len(prompts), len(seeds), int(answer.max(initial=-1)) + 1), np.nan)
    scores[place_N, prompt_N, seed_N, answer] = rows[judge].to_numpy(dtype=np.float64)
    return labels, scores


def final_samples(results: RunData, task: str) -> pd.DataFrame:
    """Stored answers of the last evaluation of each finished cell of a task, in the order in which they were stored."""
    rows = results.end_samples
    rows = rows[rows["task"] == task]
    last = rows.groupby(["run", "label", "seed"], observed=True)["step"].transform("max")
    return rows[rows["step"] == last]


def reference_samples(results: RunData, task: str) -> pd.DataFrame:
    """Stored answers of the reference itself: of contestants that are it, and of first evaluations that still were."""
    rows = results.end_samples
    rows = rows[rows["task"] == task]
    first = rows.groupby(["run", "label", "seed"], observed=True)["step"].transform("min")
    still = (rows["step"] == first) & (rows["kl"].astype(float).fillna(np.inf).abs() < REFERENCE_KL)
    return rows[still | rows["label"].isin(results.untrained)]


def prompt_gains(results: RunData, task: str, metric: str = "proxy") -> pd.DataFrame:
    """How much each contestant gained on each stored evaluation prompt, over what the reference scores there.

    Columns: label, prompt_index, gain (mean over answers and seeds, less the reference's mean on that prompt). Empty where
    no answer of the reference to these prompts is stored; contestants that are the reference are left out.
    """
    start = reference_samples(results, task)
    final = final_samples(results, task)
    if metric not in start or metric not in final:
        return pd.DataFrame(columns=["label", "prompt_index", "gain"])
    final = final[~final["label"].isin(results.untrained)]
    base = start.dropna(subset=[metric]).groupby("prompt")[metric].mean()
    keys = ["label", "prompt_index", "prompt"]
    scores = final.dropna(subset=[metric]).groupby(keys, observed=True, sort=False)[metric].mean().reset_index()
    scores["gain"] = scores[metric].astype(float) - scores["prompt"].map(base).astype(float)
    return scores.dropna(subset=["gain"])[["label", "prompt_index", "gain"]].reset_index(drop=True)
