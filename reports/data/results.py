"""One or more runs as tidy pandas frames, the source of every table, figure and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from bakeoff.errors import RunFolderError
from bakeoff.reports.data.entries import name_entries
from bakeoff.reports.data.store_reader import METERS, StoredRun, read_run

KEYS = ("run", "task", "label", "algorithm", "seed")
"""Columns that say which cell a row belongs to."""
_RESERVED = {*KEYS, *METERS, "phase", "step", "_entry", ""}


class RunData:
    """The contents of one or more run folders. Users see its subclass :class:`bakeoff.reports.Results`.

    Only cells whose status is ``done`` count in :attr:`final`, the leaderboard, figures and statistics; :attr:`cells`
    lists the rest with their reasons.
    """

    def __init__(self, runs: Sequence[StoredRun]) -> None:
        self.runs = list(runs)
        self.entries, self.tasks = name_entries(self.runs)
        """Every planned cell under its display names, and what is known of each task."""
        self.memo: dict[tuple[str, ...], Any] = {}
        """Slow results that are needed more than once, by name and task."""

    @classmethod
    def load(cls, paths: Sequence[Path | str] | Path | str) -> Self:
        """Read run folders.

        Raises:
            RunFolderError: no folder is given, one is no run folder, is given twice, or was made by a newer version.
        """
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        if not given:
            raise RunFolderError("no run folder given; give at least one that `bakeoff run` wrote")
        folders = [Path(path) for path in given]
        resolved = [folder.resolve() for folder in folders]
        for folder in folders:
            if resolved.count(folder.resolve()) > 1:
                raise RunFolderError(f"{folder}: given twice; name each run folder once")
        return cls([read_run(folder) for folder in folders])

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per planned cell: keys, status, error, attempts, seconds of wall clock, torn lines, folder."""
        rows = [
            {
                **self._keys(index),
                "status": entry.cell.status,
                "error": entry.cell.error,
                "attempts": _number(entry.cell.state.get("attempts")),
                "wall_seconds": _number(entry.cell.state.get("seconds")),
                "torn_lines": entry.cell.torn,
                "path": str(entry.cell.path),
            }
            for index, entry in enumerate(self.entries)
        ]
        columns = [*KEYS, "status", "error", "attempts", "wall_seconds", "torn_lines", "path"]
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """Wide: one row per evaluation of a done cell, one column per metric."""
        done = [
            (i, row)
            for i, entry in enumerate(self.entries)
            if entry.cell.status == "done"
            for row in entry.cell.evaluations
        ]
        return self._wide(done)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Tidy: one row per metric of an evaluation or update, of every cell of any status.

        Columns: run, task, label, algorithm, seed, phase, step, the four meters, metric, value.
        """
        wide = self._wide([(i, row) for i, entry in enumerate(self.entries) for row in entry.cell.rows()])
        ids = [*KEYS, "phase", "step", *METERS]
        # q_learning's own "value" is a metric among others: no column may have the name that pandas is to give another.
        tidy = wide.melt(id_vars=ids, var_name="metric", value_name="").rename(columns={"": "value"})
        tidy = tidy.dropna(subset=["value"])
        return tidy.astype({"metric": "category"}).reset_index(drop=True)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row per stored sample, of every cell: keys, step, prompt, completion, proxy, gold, kl, length and what
        else was stored.
        """
        return self._sample_frame(ends_only=False)

    @cached_property
    def end_samples(self) -> pd.DataFrame:
        """Like :attr:`samples`, but of done cells and only their first and last evaluation."""
        return self._sample_frame(ends_only=True)

    @cached_property
    def final(self) -> pd.DataFrame:
        """The last evaluation of every done cell, wide."""
        return self.evaluations.groupby(list(KEYS), sort=False, observed=True).tail(1).reset_index(drop=True)

    @cached_property
    def first(self) -> pd.DataFrame:
        """The first evaluation of every done cell, wide: the untrained policy."""
        return self.evaluations.groupby(list(KEYS), sort=False, observed=True).head(1).reset_index(drop=True)

    def task_names(self) -> list[str]:
        """Tasks in the order of the manifest."""
        return list(dict.fromkeys(entry.task for entry in self.entries))

    def labels(self, task: str | None = None) -> list[str]:
        """Contestants in the order of the manifest, of one task or of all."""
        return list(dict.fromkeys(entry.label for entry in self.entries if task in (None, entry.task)))

    def primary_metric(self, task: str) -> str:
        """What a task is ranked by: the exact normalized score where it is known, else the objective, else the proxy."""
        rows = self.final[self.final["task"] == task]
        for name in ("normalized_score", "objective", "proxy"):
            if name in rows and rows[name].notna().any():
                return name
        return "objective"

    @cached_property
    def not_learning(self) -> frozenset[str]:
        """Contestants that never trained a token, such as best of n."""
        trained = self.final.groupby("label", observed=True)["trained_tokens"].max()
        return frozenset(str(label) for label, tokens in trained.items() if tokens == 0)

    @cached_property
    def untrained(self) -> frozenset[str]:
        """Contestants that did not train and did not leave the reference: the reference under any name."""
        if "kl" not in self.final:
            return frozenset()
        kl = self.final.groupby("label", observed=True)["kl"].max()
        return frozenset(label for label in self.not_learning if label in kl and abs(float(kl[label])) < 1e-4)

    def of_task(self, task: str) -> RunData:
        """The part that drawing one task needs; which contestants train stays as known from all tasks.

        It names no run folders, so it cannot be reported by itself.
        """
        part = RunData([])
        # Evaluations go along as one table, not once more as rows: a part is sent to other processes.
        part.entries = [
            replace(entry, cell=replace(entry.cell, evaluations=())) for entry in self.entries if entry.task == task
        ]
        part.evaluations = self.evaluations[self.evaluations["task"] == task].reset_index(drop=True)
        part.tasks = {task: self.tasks[task]}
        part.not_learning, part.untrained = self.not_learning, self.untrained
        return part

    def __repr__(self) -> str:
        counts = self.cells["status"].value_counts()
        states = ", ".join(f"{number} {status}" for status, number in counts.items())
        return f"{type(self).__name__}({', '.join(run.name for run in self.runs)}: {states or 'no cells'})"

    def _keys(self, index: int) -> dict[str, Any]:
        entry = self.entries[index]
        return {
            "run": entry.run,
            "task": entry.task,
            "label": entry.label,
            "algorithm": entry.cell.algorithm,
            "seed": entry.cell.seed,
        }

    def _wide(self, rows: Sequence[tuple[int, Any]]) -> pd.DataFrame:
        spent = pd.DataFrame([{meter: row.get(meter) for meter in METERS} for _, row in rows], columns=list(METERS))
        measured = pd.DataFrame([row["metrics"] for _, row in rows])
        measured = measured.rename(columns={name: f"metrics.{name}" for name in measured if name in _RESERVED})
        head = pd.DataFrame(
            {
                "_entry": [index for index, _ in rows],
                "phase": pd.Series([row["phase"] for _, row in rows], dtype=object),
                "step": [row["step"] for _, row in rows],
            }
        )
        return self._with_keys(pd.concat([head, *(part.apply(_numbers) for part in (spent, measured))], axis=1))

    def _with_keys(self, frame: pd.DataFrame) -> pd.DataFrame:
        keys = pd.DataFrame([self._keys(i) for i in range(len(self.entries))], columns=list(KEYS))
        for name in KEYS[:-1]:
            keys[name] = pd.Categorical(keys[name], categories=list(dict.fromkeys(keys[name])))
        index = frame.pop("_entry").astype(int)
        head = keys.iloc[index.to_numpy()].reset_index(drop=True)
        return pd.concat([head, frame.reset_index(drop=True)], axis=1)

    def _sample_frame(self, *, ends_only: bool) -> pd.DataFrame:
        rows = [
            {"_entry": index, **{key: value for key, value in sample.items() if key not in KEYS}}
            for index, entry in enumerate(self.entries)
            if entry.cell.status == "done" or not ends_only
            for sample in entry.cell.samples(ends_only=ends_only)
        ]
        columns = ["_entry", "step", "prompt", "prompt_index", "completion", "proxy", "gold", "kl", "length"]
        frame = pd.DataFrame(rows)
        return self._with_keys(frame.reindex(columns=list(dict.fromkeys([*columns, *frame.columns]))))


def _numbers(column: pd.Series) -> pd.Series:
    """A column as floats; whole columns are quick, values that are no numbers are looked at one by one."""
    if pd.api.types.is_bool_dtype(column):
        return pd.Series(float("nan"), index=column.index)
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    return column.map(_number).astype(float)


def _number(value: Any) -> float:
    """A float; NaN for anything that is no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
