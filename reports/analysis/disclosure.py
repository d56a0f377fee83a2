"""What a comparison depends on: which contestants were tuned and how, and which spent outside the meter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bakeoff.reports.data.text import one_line

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData
    from bakeoff.reports.data.store_reader import StoredRun


def tuning(results: RunData, labels: Sequence[str]) -> list[str]:
    """One sentence per run whose suite came from ``bakeoff tune``, about those of its contestants that are shown."""
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
        used = {entry.label: entry.cell.config.get("settings") for entry in results.entries if entry.label in shown}
        each = "; ".join(f"{label}: {_found(entry)}{_unused(entry, used[label])}" for label, entry in shown.items())
        sentences.append(
            f"Tuned before this run, {one_line(str(tuned.get('trials')), 20)} trials for each on {word} "
            f"{one_line(listed, 80)}{more}, {_apart(run, seeds)} (the evaluation prompts are the same): {each}."
        )
    return sentences


def _apart(run: StoredRun, seeds: Any) -> str:
    """Says whether a number of this report is of a seed that was used for tuning."""
    shared = sorted({cell.seed for cell in run.cells} & set(seeds if isinstance(seeds, list) else ()))
    if not shared:
        return "none of which is in this report"
    return f"of which {', '.join(map(str, shared[:4]))} {'is' if len(shared) == 1 else 'are'} in this report as well"


def _unused(found: Mapping[str, Any], used: Any) -> str:
    """A remark where this run's settings are not those that were found."""
    settings = found.get("settings")
    if not isinstance(settings, dict) or not isinstance(used, dict):
        return ""
    other = [str(key) for key, value in settings.items() if key in used and used[key] != value]
    return f" (this run has another {one_line(', '.join(other), 80)})" if other else ""


def _found(entry: Mapping[str, Any]) -> str:
    settings = entry.get("settings")
    pairs = settings.items() if isinstance(settings, dict) else ()
    text = ", ".join(f"{key} = {f'{value:.3g}' if isinstance(value, float) else value}" for key, value in pairs)
    failed = entry.get("failed")
    lost = f", {failed} {'trial' if failed == 1 else 'trials'} failed" if isinstance(failed, int) and failed > 0 else ""
    return (one_line(text, 120) or "no trial was better than its own settings") + lost


def outside_the_meter(results: RunData) -> list[str]:
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
        parts += ["lowered its meter"] if "lowered" in totals else []
        each.append(f"{label} ({one_line(', '.join(parts), 120)})")
    return [
        "Spent outside the meter (the largest amount in one cell), so the budget did not limit them and "
        "their rank is not comparable: " + "; ".join(each) + "."
    ]
