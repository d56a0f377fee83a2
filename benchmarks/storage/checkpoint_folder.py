"""The checkpoints of a cell, ``checkpoint/<step>/``: each written whole or not at all, and read only where it fits the cell.

A checkpoint records which cell it is of, and the length and SHA-256 of each row file when it was written.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bakeoff import plain_files
from bakeoff.benchmarks.storage import atomic_files

_KEPT = 2
_SUMS = "checksums.json"
_FRESH = ".new-"


class CheckpointFolder:
    """The folder that holds them."""

    def __init__(self, home: Path, identity: str) -> None:
        """Args:
        home: the folder; made with the first checkpoint.
        identity: what says which cell it is of.
        """
        self.home, self._identity = home, identity

    def save(self, step: int, rows: Mapping[str, Mapping[str, Any]], state: Any) -> None:
        """Save a state; older checkpoints are removed, but for the last good one.

        Args:
            step: names it.
            rows: ``bytes`` and ``sha256`` of each row file, by name.
            state: what :mod:`bakeoff.benchmarks.storage.checkpoint` can hold.
        """
        from bakeoff.benchmarks.storage import checkpoint

        plain_files.make_folder(self.home)
        for left in self.home.glob(".*"):  # by a kill
            shutil.rmtree(left, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(dir=self.home, prefix=_FRESH))
        try:
            fresh.chmod(self.home.stat().st_mode & 0o777)
            checkpoint.save_state({"cell": self._identity, "rows": rows, "state": state}, fresh)
            sums = atomic_files.checksums(fresh)
            (fresh / _SUMS).write_text(json.dumps(sums), encoding="utf-8")
            atomic_files.sync_files(fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        atomic_files.replace_folder(fresh, self.home / f"{step:09d}")
        for old in self.newest_first()[_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def newest_first(self) -> list[Path]:
        """The checkpoints, whole or not."""
        return [path for path in reversed(plain_files.folders(self.home)) if path.name.isdecimal()]

    def load(self, candidate: Path) -> tuple[Any, str | None]:
        """What a checkpoint holds, ``rows`` and ``state``; or None, and why not."""
        from bakeoff.benchmarks.storage import checkpoint

        name = f"checkpoint {int(candidate.name)}"
        try:
            recorded = json.loads(plain_files.read(candidate / _SUMS))
            here = {file.name for file in candidate.iterdir()} - {_SUMS}
            if here != set(recorded) or any(atomic_files.checksum(candidate / file) != recorded[file] for file in here):
                return None, f"{name} is damaged"
            saved = checkpoint.load_state(candidate)
            if saved["cell"] != self._identity:
                return None, f"{name} is another cell's"
            rows = {
                str(file): {"bytes": int(of["bytes"]), "sha256": of["sha256"]} for file, of in saved["rows"].items()
            }
            return {"rows": rows, "state": saved["state"]}, None
        except MemoryError:  # as little fault of the checkpoint as a disk that cannot be read for a moment
            raise
        except Exception as error:  # whatever a file can hold, forged ones included
            return None, f"{name} is damaged ({type(error).__name__})"

    def drop(self) -> None:
        """Remove all: the cell is done, or starts again."""
        shutil.rmtree(self.home, ignore_errors=True)
