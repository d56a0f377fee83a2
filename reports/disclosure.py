"""What a reader has to know before believing a comparison: who was tuned and how, and who spent outside the meter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bakeoff.reports.text import one_line

if TYPE_CHECKING:
    from bakeoff.reports.results import Results


def tuning(results: Results, labels: Sequence[str]) -> list[str]:
    """One sentence a run whose suite came from ``bakeoff tune``, about those of its contestants that are shown."""
    sentences = []
    for run in results.runs:
        suite = run.manifest.get("suite")
        tuned = suite.get("tuned") if isinstance(suite, dict) else None
        found = tuned.get("contestants") if isinstance(tuned, dict) else None
        if not isinstance(tuned, dict) or not isinstance(found, dict):
            continue
        shown = {
            entry.label: found[entry.cell.label]
            for entry in results.entries
            if entry.cell in run.cells and entry.label in labels and isinstance(found.get(entry.cell.label), dict)
        }
        if not shown:
            continue
        seeds = tuned.get("seeds")
        listed = ", ".join(str(seed) for seed in seeds[:4]) if isinstance(seeds, list) else "unknown"
        more = ", ..." if isinstance(seeds, list) and len(seeds) > 4 else ""
        word = "seed" if isinstance(seeds, list) and len(seeds) == 1 else "seeds"
        each = "; ".join(f"{label}: {_found(entry)}" for label, entry in shown.items())
        sentences.append(
            f"Tuned before this run, {one_line(str(tuned.get('trials')), 20)} trials for each on {word} "
            f"{one_line(listed, 80)}{more}, which no figure here uses (the evaluation prompts are the same): {each}."
        )
    return sentences


def _found(entry: Mapping[str, Any]) -> str:
    settings = entry.get("settings")
    pairs = settings.items() if isinstance(settings, dict) else ()
    text = ", ".join(f"{key} = {f'{value:.3g}' if isinstance(value, float) else value}" for key, value in pairs)
    failed = entry.get("failed")
    lost = f", {failed} trials failed" if isinstance(failed, int) and failed > 0 else ""
    return (one_line(text, 120) or "nothing was better than its own settings") + lost


def outside_the_meter(results: Results) -> list[str]:
    """One sentence that names the contestants whose cells noted spending that no meter counted."""
    spent: dict[str, dict[str, int]] = {}
    for entry in results.entries:
        outside = entry.cell.config.get("outside_meter")
        for name, value in outside.items() if isinstance(outside, dict) else ():
            if isinstance(value, int) and value > 0:
                most = spent.setdefault(entry.label, {})
                most[str(name)] = max(most.get(str(name), 0), value)
    if not spent:
        return []
    titles = {"reward_queries": "reward queries", "generated_tokens": "generated tokens or more"}
    each = []
    for label, totals in spent.items():
        parts = [f"{value} {titles[name]}" for name, value in totals.items() if name in titles]
        parts += ["set its meter back"] if "lowered" in totals else []
        each.append(f"{label} ({one_line(', '.join(parts), 120)})")
    return [
        "Spent outside the meter, at most in one cell, so the budget did not hold for them and their rank is not earned: "
        + "; ".join(each)
        + "."
    ]
