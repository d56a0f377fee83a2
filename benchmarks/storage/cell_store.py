"""A cell's folder: its configuration, status, measurements and checkpoints (see docs/run-folder.md).

Rows are appended and never changed. A checkpoint remembers how long the row files were, and their SHA-256; resuming cuts them
back to that length, so the rows after it are written again, equal, and never twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from bakeoff import distributed, plain_files
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.checkpoint_folder import CheckpointFolder
from bakeoff.errors import RunFolderError

SCHEMA = 2
"""Version of the run folder; docs/run-folder.md says what changed. Readers refuse any other."""
ROW_FILES = ("metrics.jsonl", "samples.jsonl")
RECORDS = "records.jsonl"
"""Rows of what an algorithm wrote while training; the file exists only where there are any."""
_LOCK_SECONDS = 60.0
"""How long a cell waits for its last writer: on a node that was cut off it may outlive its node a little."""


@dataclass(frozen=True)
class Status:
    """The status of a cell; ``status.json``."""

    status: str = "pending"
    """``pending``, ``running``, ``done`` or ``failed``."""
    error: str | None = None
    """One line, where it failed."""
    traceback: str | None = None
    """The full traceback, where there is one."""
    attempts: int = 0
    """How often it was started."""
    seconds: float = 0.0
    """Wall-clock seconds, evaluation included: of a cell that is done, those its rows took, what a resumed attempt did again
    counted once; of another, those of all attempts as far as they are known."""
    started: str | None = None
    """When the last attempt began (ISO 8601, UTC)."""
    ended: str | None = None
    """When it ended."""
    note: str | None = None
    """What was found wrong when it was resumed, and so was done again."""
    sums: Mapping[str, str] | None = None
    """SHA-256 of the row files of a cell that is done, by name."""

    @classmethod
    def read(cls, folder: Path) -> Status:
        """The status of a cell's folder; pending where there is none."""
        value = atomic_files.read_json(folder / "status.json")
        if not isinstance(value, dict):
            return cls()
        return cls(**{name: value[name] for name, fits in _FITS.items() if name in value and fits(value[name])})

    def is_done(self, folder: Path) -> bool:
        """Whether it is done and its row files are unchanged since."""
        return self.status == "done" and row_sums(folder) == self.sums

    def write(self, folder: Path) -> None:
        """Replace the status of a cell's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write_json(folder / "status.json", vars(self))


def _is_line(value: Any) -> bool:
    return value is None or isinstance(value, str)


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "status": lambda value: value in ("pending", "running", "done", "failed"),
    **dict.fromkeys(("error", "traceback", "started", "ended", "note"), _is_line),
    "attempts": lambda value: type(value) is int and value >= 0,
    "seconds": lambda value: type(value) in (int, float) and 0 <= value < float("inf"),
    "sums": lambda value: isinstance(value, dict) and all(isinstance(found, str) for found in value.values()),
}
"""What each value of ``status.json`` may be; another one is passed over, so that a damaged file fails nothing for ever."""


def now() -> str:
    """The time now (ISO 8601, UTC)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def row_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of the row files of a cell, by name."""
    return {name: atomic_files.checksum(folder / name) for name in (*ROW_FILES, RECORDS) if (folder / name).is_file()}


_open: weakref.WeakSet[CellStore] = weakref.WeakSet()


def _close_in_child() -> None:
    """A child that a reward has forked must not hold the lock of a cell after its worker."""
    for store in list(_open):
        for file in store.files:
            with contextlib.suppress(OSError, ValueError):
                file.close()


if hasattr(os, "register_at_fork"):  # not where processes cannot fork
    os.register_at_fork(after_in_child=_close_in_child)


class CellStore:
    """The folder of one cell, open for writing by the one process that runs it."""

    def __init__(self, folder: Path, identity: str = "") -> None:
        """Open a cell's folder, which is made where it is missing.

        Args:
            folder: the cell's folder.
            identity: says which cell it is; a checkpoint that was saved under another one is not taken up.

        Raises:
            RunFolderError: another process is writing it.
        """
        self.folder = folder
        self.passed_over: str | None = None
        self._checkpoints = CheckpointFolder(folder / "checkpoint", identity)
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {name: plain_files.open_to_append(folder / name) for name in ROW_FILES}
        try:
            atomic_files.lock(self._files[ROW_FILES[0]], _LOCK_SECONDS)
        except TimeoutError:
            self.close()
            raise RunFolderError(f"{folder}: another process is writing this cell; wait for it or end it") from None
        _open.add(self)
        if (folder / RECORDS).exists():  # the last writer may have made it while this one waited
            self._files[RECORDS] = plain_files.open_to_append(folder / RECORDS)
        self._sums = {name: atomic_files.hashed(folder / name) for name in self._files}

    @property
    def files(self) -> Sequence[BinaryIO]:
        """The files that it holds open."""
        return list(self._files.values())

    def close(self) -> None:
        """Flush to disk and close."""
        with contextlib.ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)
            self._sync_rows()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace ``config.json``."""
        atomic_files.write_json(self.folder / "config.json", config)

    def append_metrics(self, step: int, phase: str, meter: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Append one row to ``metrics.jsonl``."""
        self._append(
            "metrics.jsonl", [{"step": step, "phase": phase, **meter, "metrics": atomic_files.finite(metrics)}]
        )

    def append_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to ``samples.jsonl``."""
        self._append("samples.jsonl", rows)

    def append_records(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to ``records.jsonl``, which is made when the first one comes."""
        if rows:
            if RECORDS not in self._files:
                self._files[RECORDS] = plain_files.open_to_append(self.folder / RECORDS)
                self._sums[RECORDS] = atomic_files.hashed(self.folder / RECORDS)
            self._append(RECORDS, rows)

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        # ASCII escapes keep every character of a model's text, lone surrogates included, and a line one line.
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        file = self._files[name]
        file.write(text)
        file.flush()
        self._sums[name].update(text)

    def _sync_rows(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    # ---------------------------------------------------------------- checkpoints

    def save_checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """Save a whole state in ``checkpoint/<step>``; older ones are removed, but for the last good one."""
        self._sync_rows()
        rows = {
            name: {"bytes": file.tell(), "sha256": self._sums[name].hexdigest()} for name, file in self._files.items()
        }
        self._checkpoints.save(step, rows, state)

    def resume(self) -> Any | None:
        """The newest usable checkpoint's state, with the row files cut back to it; None to start again, with them empty.

        One that is torn, altered or another cell's, or whose rows are not as it left them, is removed, and the one before it
        used: rows that are written again may have other lengths. :attr:`passed_over` says why.
        """
        seen: list[Path] = []
        for candidate in self._checkpoints.newest_first():
            seen.append(candidate)
            saved, problem = self._checkpoints.load(candidate)
            if saved is not None:
                changed = [
                    name for name, of in saved["rows"].items() if self._prefix(name, of["bytes"]) != of["sha256"]
                ]
                problem = f"{changed[0]} is not as checkpoint {int(candidate.name)} left it" if changed else None
            self.passed_over = problem or self.passed_over
            if problem is None:
                for newer in seen[:-1]:
                    shutil.rmtree(newer, ignore_errors=True)
                self._truncate({name: of["bytes"] for name, of in saved["rows"].items()})
                distributed.broadcast(candidate.name)  # the other ranks resume from it, too
                return saved["state"]
        distributed.broadcast(None)
        self.drop_checkpoints()
        self._truncate({})
        return None

    def drop_checkpoints(self) -> None:
        """Remove all checkpoints: the cell is done, or starts again."""
        self._checkpoints.drop()

    def _prefix(self, name: str, length: int) -> str | None:
        """SHA-256 of a row file's first bytes; None where it has fewer."""
        if name not in self._files:
            return None
        found = atomic_files.hashed(self.folder / name, length)
        return found.hexdigest() if self._files[name].seek(0, os.SEEK_END) >= length else None

    def _truncate(self, lengths: Mapping[str, int]) -> None:
        for name, file in self._files.items():
            file.truncate(lengths.get(name, 0))
            file.seek(0, os.SEEK_END)
            self._sums[name] = atomic_files.hashed(self.folder / name)
        self._sync_rows()

    def replace_model(self, save: Any) -> None:
        """Write ``model/`` by calling ``save(folder)``, whole or not at all."""
        fresh = self.folder / ".model.new"
        shutil.rmtree(fresh, ignore_errors=True)
        save(fresh)
        atomic_files.replace_folder(fresh, self.folder / "model")


class ReadOnlyCellStore(CellStore):
    """A cell's folder as ranks above 0 have it: they read the checkpoint that rank 0 resumes from, and write nothing."""

    def __init__(self, folder: Path, identity: str = "") -> None:
        """Args:
        folder: the cell's folder.
        identity: says which cell it is.
        """
        self.folder, self.passed_over = folder, None

    def resume(self) -> Any | None:
        """The state that rank 0 resumes from."""
        from bakeoff.benchmarks.storage import checkpoint

        name = distributed.broadcast(None)
        return None if name is None else checkpoint.load_state(self.folder / "checkpoint" / name)["state"]

    def close(self) -> None:
        """Do nothing: no file is open."""

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write nothing."""

    def append_metrics(self, step: int, phase: str, meter: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Write nothing."""

    def append_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write nothing."""

    def append_records(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write nothing."""

    def save_checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """Write nothing."""

    def drop_checkpoints(self) -> None:
        """Remove nothing."""

    def replace_model(self, save: Any) -> None:
        """Write nothing."""


def check_schema(manifest: Mapping[str, Any], folder: Path) -> None:
    """Refuse a folder whose schema is not the one that this version writes."""
    schema = manifest.get("schema")
    if schema == SCHEMA:
        return
    fix = "choose another --out"
    if isinstance(schema, int):
        maker = f", bakeoff {manifest['bakeoff']}" if isinstance(manifest.get("bakeoff"), str) else ""
        fix += f", or finish it with the version that made it{maker}"
    raise RunFolderError(f"{folder}: its schema is {schema!r}, this version of bakeoff writes {SCHEMA}; {fix}")
