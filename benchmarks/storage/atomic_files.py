"""Writing files so that a kill, at any moment, leaves the old content or the new and nothing between."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bakeoff import plain_files


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically and durably."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    plain_files.replace(path, (text + "\n").encode("utf-8", errors="replace"))


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none that can be read."""
    try:
        return json.loads(plain_files.read(path))
    except (OSError, ValueError, RecursionError):
        return None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file; a torn last line, left by a kill, is passed over."""
    with contextlib.suppress(FileNotFoundError):
        for line in plain_files.lines(path):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def lock(file: BinaryIO, seconds: float) -> None:
    """Hold an open file for this process; the system lets go when it is closed, or the process ends, however it ends.

    Raises:
        TimeoutError: another process has held it for so many seconds.
    """
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{file.name} is locked by another process") from None
            time.sleep(min(0.2, seconds))
        except OSError:  # a file system without locks
            return


def sync_files(folder: Path) -> None:
    """Flush every file of a flat folder to disk."""
    for path in folder.iterdir():
        with plain_files.open_file(path) as file:
            os.fsync(file.fileno())
    plain_files.sync_folder(folder)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a flat folder, by name."""
    return {path.name: checksum(path) for path in sorted(folder.iterdir())}


def checksum(path: Path) -> str:
    """SHA-256 of a regular file."""
    with plain_files.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashed(path: Path, length: int | None = None) -> Any:
    """The SHA-256 object of a regular file, or of its first bytes, which further bytes may be added to."""
    found, left = hashlib.sha256(), length
    with plain_files.open_file(path) as file:
        while chunk := file.read(1 << 20 if left is None else min(left, 1 << 20)):
            found.update(chunk)
            left = None if left is None else left - len(chunk)
    return found


def replace_folder(fresh: Path, path: Path) -> None:
    """Put a finished folder in the place of an older one."""
    if path.exists():
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.replace(old)
        fresh.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        fresh.replace(path)
    plain_files.sync_folder(path.parent)


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON can hold them: null where a value is not a finite number."""
    result: dict[str, float | None] = {}
    for name, value in metrics.items():
        number = float(value)
        result[str(name)] = number if number - number == 0 else None
    return result
