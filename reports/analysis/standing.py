"""How the contestants of a task stand to each other and to the reference, in sentences that claim no more than is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bakeoff.reports.data.text import number
from bakeoff.reports.statistics.findings import against_reference

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


def headline(ranked: pd.DataFrame, versus: pd.DataFrame, mean: str) -> str:
    """One sentence on the best contestant.

    Args:
        ranked: its task's leaderboard, contestants with finished seeds only.
        versus: what :func:`~bakeoff.reports.statistics.findings.comparisons` found.
        mean: its score in words.
    """
    best = ranked.iloc[0]["label"]
    found = {finding: list(rows["other"]) for finding, rows in versus.groupby("finding", sort=False)}
    if len(found.get("equal", ())) == len(versus):
        return f"All contestants scored the same: {mean}."
    first = [best, *found.get("equal", ())]
    start = f"{names(first)} scored {'the same and ' if len(first) > 1 else ''}highest"
    if len(found.get("unknown", ())) == len(versus):
        chance = "With one seed, chance" if ranked["seeds"].max() == 1 else "Without a second seed of each, chance"
        return f"{start}: {mean}. {chance} cannot be ruled out."
    open_ = [label for finding in ("level", "bound", "unknown") for label in found.get(finding, ())]
    if "ahead" not in found:
        return f"{start}, {'' if len(first) > 1 else 'but is '}not told apart from {names(open_)}: {mean}."
    everyone = len(found["ahead"]) == len(versus)
    ahead = all_others(len(versus)) if everyone else names(found["ahead"])
    rest = f"; not told apart from {names(open_)}" if open_ else ""
    return f"{start}, ahead of {ahead} beyond noise{rest}: {mean}."


def details(results: RunData, ranked: pd.DataFrame, versus: pd.DataFrame) -> list[str]:
    """Sentences on the differences, on the reference and on gold."""
    found = {str(finding): rows for finding, rows in versus.groupby("finding", sort=False)}
    sentences = []
    if "ahead" in found:
        sentences.append("Beyond noise: ahead of " + _differences(found["ahead"]) + ".")
    if "level" in found:
        more = 2 * int(ranked["seeds"].max())
        sentences.append(
            f"Not told apart: {_differences(found['level'])}. More seeds find smaller differences: "
            f"repeat the run's command with `--seeds {more}`, finished cells are kept."
        )
    if "bound" in found:
        those = found["bound"]
        sentences.append(
            f"Nothing is claimed against {names(those['other'])}: the KL there is only an upper bound, so the true score may "
            "be higher."
        )
    if "unknown" in found and len(found["unknown"]) < len(versus):
        sentences.append(f"No interval with a single seed, or without any scatter: {names(found['unknown']['other'])}.")
    return [*sentences, *_against_reference(results, str(ranked.iloc[0]["task"])), *_gold(results, ranked)]


def one_reward(results: RunData, task: str) -> str | None:
    """A sentence where every judged completion of a task got the same reward; ``None`` elsewhere, or where that is unknown."""
    final = results.final[results.final["task"] == task]
    if not {"proxy", "proxy_se"} <= set(final) or final.empty:
        return None
    rewards, errors = final["proxy"].to_numpy(dtype=np.float64), final["proxy_se"].to_numpy(dtype=np.float64)
    if np.ptp(rewards) > 1e-12 * abs(rewards).max() or not (errors <= 1e-12 * abs(rewards).max()).all():
        return None
    return (
        f"Every judged completion got the same reward, {number(float(rewards[0]))}: it separates no contestant from another. "
        "Look at the samples and at the reward."
    )


def _against_reference(results: RunData, task: str) -> list[str]:
    table = against_reference(results, task)
    if table.empty:
        return []
    words = {
        "above": "above the reference beyond noise: ",
        "below": "below the reference beyond noise: ",
        "level": "not told apart from the reference: ",
        "equal": "equal to the reference: ",
    }
    parts = []
    for finding, start in words.items():
        rows = table[table["finding"] == finding]
        if len(rows):
            by = (f"{row['other']} ({_signed(row['difference'])})" for _, row in rows.iterrows())
            parts.append(start + names(by))
    text = "; ".join(parts)
    return [text[0].upper() + text[1:] + "."] if text else []


def _gold(results: RunData, ranked: pd.DataFrame) -> list[str]:
    """Contestants by gold, and whether the best by the ranked score gained any."""
    if "gold" not in ranked or ranked["gold"].isna().all():
        return []
    task, best = str(ranked.iloc[0]["task"]), str(ranked.iloc[0]["label"])
    order = ranked.dropna(subset=["gold"]).sort_values("gold", ascending=False, kind="stable")
    listed = names(f"{row['label']} {number(row['gold'])}" for _, row in order.iterrows())
    sentences = [f"By gold, which no contestant saw: {listed}."]
    table = against_reference(results, task, "gold")
    mine = table[table["other"] == best] if len(table) else table
    if len(mine) and mine.iloc[0]["finding"] != "above":
        row = mine.iloc[0]
        by = _signed(row["difference"])
        if row["finding"] == "below":
            sentences.append(f"By gold {best} is below the reference beyond noise ({by}).")
        elif row["difference"] > 0:
            sentences.append(f"The gain of {best} over the reference by gold is not beyond noise ({by}).")
        else:
            sentences.append(f"By gold {best} shows no gain over the reference ({by}).")
    return sentences


def _differences(rows: pd.DataFrame, most: int = 5) -> str:
    listed = [_difference(row) for _, row in rows.head(most).iterrows()]
    more = [f"{len(rows) - most} more in the table below"] if len(rows) > most else []
    return "; ".join(listed + more)


def _difference(row: pd.Series) -> str:
    if row["exact"]:
        return f"{row['other']} by {number(row['difference'])} (exact, the same for every seed)"
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.2g}"
    chance = ""
    if np.isfinite(row["improvement"]):
        bounds = f"[{number(row['improvement_low'], 2)}, {number(row['improvement_high'], 2)}]"
        chance = f"; probability of improvement {number(row['improvement'], 2)} {bounds}"
    interval = f"{number(row['low'])} to {number(row['high'])}"
    return f"{row['other']} by {number(row['difference'])} ({interval}, {p}{chance})"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def names(given: Iterable[object], most: int = 6) -> str:
    """A list in words."""
    listed = [str(name) for name in given]
    if len(listed) > most:
        listed = [*listed[: most - 1], f"{len(listed) - most + 1} more"]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"


def all_others(others: int) -> str:
    """All contestants but one."""
    return {1: "the other one", 2: "both others"}.get(others, f"all {others} others")
