"""How many completions `rloo` clips, by their length and its setting `clip`; from this its default is chosen.

    python benchmarks/studies/rloo_clip.py    # docs/rloo_clip.json and the table in docs/policy-gradients.md; five minutes

Tasks `exact` (5 tokens) and `reviews` (its 24, and cut at 64 and 200 instead), all other settings at their defaults. The default
is the smallest of :data:`CLIPS` at which no more than :data:`MOST` are clipped at any length.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bakeoff.algos.core.build import build
from bakeoff.algos.rloo import RLOO
from bakeoff.benchmarks.studies import page_tables
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import make_task

ROOT = Path(__file__).resolve().parents[2]
SUMMARY, PAGE = ROOT / "docs" / "rloo_clip.json", ROOT / "docs" / "policy-gradients.md"
SEEDS, BATCH = 3, 64
CLIPS, MOST = (0.2, 0.25, 0.3, 0.4), 0.1
CASES = (("exact", 5, 24), ("reviews", 24, 24), ("reviews", 64, 12), ("reviews", 200, 6))
"""Task, length limit, updates."""


def one_run(clip: float, task: str, limit: int, updates: int, seed: int) -> dict[str, float]:
    """The share clipped and the effective sample size, means over the updates, and by how much the objective rose."""
    played = dataclasses.replace(make_task(task), max_new_tokens=limit) if task != "exact" else make_task(task)
    algorithm = build(RLOO, {"clip": clip}, played, Budget(reward_queries=BATCH * updates), seed)
    rows = [algorithm.update() for _ in range(updates)]
    return {
        "clipped": mean(row["clip_fraction"] for row in rows),
        "sample_size": mean(row["effective_sample_size"] for row in rows),
        "gain": rows[-1]["objective"] - rows[0]["objective"],
    }


def measure() -> dict[str, Any]:
    """The figures of every case and seed."""
    rows = []
    for clip in CLIPS:
        for task, limit, updates in CASES:
            found = [one_run(clip, task, limit, updates, seed) for seed in range(SEEDS)]
            rows.append({"clip": clip, "task": task, "tokens": limit, "updates": updates, "seeds": found})
            print(rows[-1], flush=True)
    return {"batch": BATCH, "rows": rows}


def chosen(summary: Mapping[str, Any]) -> float:
    """The default that the figures lead to."""
    shares = {clip: [] for clip in CLIPS}  # type: dict[float, list[float]]
    for row in summary["rows"]:
        shares[row["clip"]].append(mean(seed["clipped"] for seed in row["seeds"]))
    return min(clip for clip, found in shares.items() if max(found) <= MOST)


def table(summary: Mapping[str, Any]) -> str:
    """The table as Markdown: means over seeds, their range in brackets."""
    rows = []
    for row in summary["rows"]:
        cells = [str(row["clip"]), row["task"], str(row["tokens"]), str(row["updates"])]
        for name, form in (("clipped", "{:.1%}"), ("sample_size", "{:.2f}"), ("gain", "{:+.2f}")):
            values = [seed[name] for seed in row["seeds"]]
            low, middle, high = (form.format(value) for value in (min(values), mean(values), max(values)))
            cells.append(f"{middle} ({low} to {high})")
        rows.append(cells)
    head = [
        "`clip`",
        "task",
        "tokens at most",
        "updates",
        "completions clipped",
        "effective sample size",
        "objective gained",
    ]
    return page_tables.table(head, rows)


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    summary = measure()
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page_tables.with_table(page, "rloo_clip.py", table(summary)), encoding="utf-8")


if __name__ == "__main__":
    main()
