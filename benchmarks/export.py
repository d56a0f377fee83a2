"""A run, finished or not, for other tools: tables as CSV or Parquet, curves for a tracker."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bakeoff import plain_files
from bakeoff.benchmarks import trackers
from bakeoff.benchmarks.trackers import TrackedCell, flat
from bakeoff.errors import NotFoundError, RunFolderError, UserError
from bakeoff.extras import optional

if TYPE_CHECKING:
    import pandas as pd

    from bakeoff.reports.data.results import RunData

TABLES = ("metrics", "samples", "cells")
"""Files of a table export: every number, every stored text, every planned cell."""


def export(run: Path, kind: str, out: Path | None = None) -> Path:
    """Write a run folder for another tool; returns the folder that was written.

    Args:
        run: the run folder.
        kind: ``csv``, ``parquet``, or a tracker: ``tensorboard``, ``wandb``, ``module:Class``.
        out: the folder to write into; ``RUN/export/<kind>`` by default.

    Raises:
        NotFoundError: no such kind.
        UserError: what it needs is not installed.
        RunFolderError: no run there, or the folder cannot be written.
    """
    from bakeoff.reports.data.results import RunData

    kinds = ("csv", "parquet", *trackers.BUILT_IN)
    if kind not in kinds and ":" not in kind:
        raise NotFoundError("export", kind, kinds)
    if kind == "parquet":
        optional("pyarrow", "parquet", "--to parquet")
    elif kind != "csv":
        trackers.check(kind)
    results = RunData.load(run)
    folder = run / "export" / kind.replace(":", "-") if out is None else out
    try:
        if out is None:
            plain_files.make_folder(folder.parent)
            plain_files.make_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)  # one that was named may be a link
        if kind in ("csv", "parquet"):
            _tables(results, kind, folder)
        else:
            _curves(results, kind, folder)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
    return folder


def _tables(results: RunData, kind: str, folder: Path) -> None:
    frames: dict[str, pd.DataFrame] = {"metrics": results.frame, "samples": results.samples, "cells": results.cells}
    for name in TABLES:
        frame = frames[name]
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as place:
            fresh = Path(place) / f"{name}.{kind}"
            if kind == "csv":
                frame.to_csv(fresh, index=False)
            else:
                frame.to_parquet(fresh, index=False, engine="pyarrow")
            fresh.replace(folder / fresh.name)


def _curves(results: RunData, kind: str, folder: Path) -> None:
    tracker = trackers.tracker_class(kind)
    for run in results.runs:
        for cell in run.cells:
            rows = cell.rows()
            if not rows:
                continue
            tracked = TrackedCell.of(run.manifest, f"{cell.task}/{cell.label}/seed-{cell.seed}", cell.config)
            try:
                with contextlib.closing(tracker(folder, tracked, 0)) as logger:
                    for row in rows:
                        meter = {key: row[key] for key in trackers.METERS if isinstance(row.get(key), int | float)}
                        logger.log(int(row["step"]), flat(str(row["phase"]), meter, row["metrics"]))
            except (UserError, OSError):
                raise
            except Exception as error:  # any that the tracker raises
                raise UserError(f"tracker {kind}, cell {tracked.path}: {type(error).__name__}: {error}") from error
