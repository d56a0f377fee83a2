"""Where every number comes from: runs, cells, and the files that hold them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from bakeoff.reports.statistics.leaderboard import records

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


@dataclass(frozen=True)
class CellView:
    """One planned cell, with what it contributed."""

    task: str
    label: str
    seed: int
    status: str
    error: str
    attempts: float | None
    wall_seconds: float | None
    path: str
    """Its folder within its run; behind the run's name where there are several."""
    link: str
    """The same from the report's folder, fit for a link; empty where there is none."""
    score: float
    """Its own value of what the task is ranked by, as it enters the mean; NaN where it enters none."""
    step: float
    """The step of the evaluation that the value is from."""


def run_view(results: RunData, index: int) -> dict[str, Any]:
    """How a run was made, from its manifest."""
    run = results.runs[index]
    manifest = run.manifest
    versions = manifest.get("versions")
    machine = manifest.get("machine")
    return {
        "name": run.name,
        "command": str(manifest.get("command") or ""),
        "created": str(manifest.get("created") or "unknown"),
        "commit": str(manifest.get("git_commit") or "unknown"),
        "bakeoff": str(manifest.get("bakeoff") or "unknown"),
        "versions": {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
        "machine": {str(k): str(v) for k, v in machine.items()} if isinstance(machine, dict) else {},
        "suite": json.dumps(manifest.get("suite"), indent=2, ensure_ascii=False, default=str),
    }


def cell_views(results: RunData, folder: Path) -> list[CellView]:
    """Every planned cell, in the manifest's order.

    Args:
        results: what was read.
        folder: the report's, for links to the cells' files.
    """
    homes = {id(cell): run.path for run in results.runs for cell in run.cells}
    scores = _scores(results)
    views = []
    for entry, row in zip(results.entries, records(results.cells), strict=True):
        within = entry.cell.path.relative_to(homes[id(entry.cell)]).as_posix()
        score, step = scores.get((entry.run, entry.task, entry.label, entry.cell.seed), (np.nan, np.nan))
        views.append(
            CellView(
                task=entry.task,
                label=entry.label,
                seed=entry.cell.seed,
                status=entry.cell.status,
                error=entry.cell.error or "",
                attempts=_known(row["attempts"]),
                wall_seconds=_known(row["wall_seconds"]),
                path=f"{entry.run}/{within}" if len(results.runs) > 1 else within,
                link=_link(entry.cell.path, folder),
                score=score,
                step=step,
            )
        )
    return views


def _scores(results: RunData) -> Mapping[tuple[str, str, str, int], tuple[float, float]]:
    found: dict[tuple[str, str, str, int], tuple[float, float]] = {}
    metrics = {task: results.primary_metric(task) for task in results.task_names()}
    for row in records(results.final):
        value = row.get(metrics[row["task"]], np.nan)
        found[row["run"], row["task"], row["label"], row["seed"]] = (float(value), float(row["step"]))
    return found


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _link(path: Path, folder: Path) -> str:
    """A relative link that can hold neither a scheme nor a quote."""
    try:
        return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix(), safe="/")
    except ValueError:  # on another drive
        return ""
