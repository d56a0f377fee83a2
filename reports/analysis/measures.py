"""The task's further judges, each on its own: they are not combined into one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bakeoff.reports.data.text import number

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData

PREFIX, ERROR = "measure_", "_se"


@dataclass(frozen=True)
class MeasureTable:
    """Every contestant under every measure, at the end of the budget."""

    names: list[str]
    """The measures."""
    rows: list[list[str]]
    """Contestant, then each measure's mean with its standard error."""


def measure_table(results: RunData, task: str) -> MeasureTable:
    """Means over finished seeds; the error is over seeds, or over completions where there is one seed."""
    found: dict[str, list[dict[str, float]]] = {}
    for entry in results.entries:
        if entry.task == task and entry.cell.status == "done" and entry.cell.evaluations:
            metrics = entry.cell.evaluations[-1]["metrics"]
            known = {k: float(v) for k, v in metrics.items() if k.startswith(PREFIX) and isinstance(v, int | float)}
            if known:
                found.setdefault(entry.label, []).append(known)
    keys = dict.fromkeys(key for seeds in found.values() for seed in seeds for key in seed)
    names = [key for key in keys if f"{key}{ERROR}" in keys]
    rows = [[label, *(_cell(seeds, name) for name in names)] for label, seeds in found.items()]
    return MeasureTable([name.removeprefix(PREFIX).replace("_", " ") for name in names], rows if names else [])


def _cell(seeds: list[dict[str, float]], name: str) -> str:
    values = np.asarray([seed[name] for seed in seeds if name in seed])
    if not len(values):
        return "–"
    one = float(np.mean([seed.get(f"{name}{ERROR}", np.nan) for seed in seeds]))
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else one
    return f"{number(float(values.mean()))} ± {number(error)}"
