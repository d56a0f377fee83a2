"""Parts of a run folder as one archive, to send them over the network."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bakeoff.benchmarks.storage.run_folder import INCOMING


def pack(folder: Path, inside: Sequence[str] = ("cells", "trackers")) -> bytes:
    """Parts of a run folder as one archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in inside:
            if (folder / name).is_dir():
                archive.add(folder / name, name)
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Put an archive's files into a folder, each whole or not at all; nothing in it can point outside.

    Rows come before checkpoints, and checkpoints that the sender no longer has are dropped last: a kill in between leaves
    one that matches the rows.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=INCOMING) as place:
        incoming = Path(place)
        with tarfile.open(fileobj=io.BytesIO(archive)) as content:
            content.extractall(incoming, filter="data")
        arrived = [path for path in incoming.rglob("*") if path.is_file() and not path.is_symlink()]
        for path in sorted(arrived, key=lambda path: (path.suffix != ".jsonl", path)):
            target = folder / path.relative_to(incoming)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        for cell in incoming.glob("cells/*/*/seed-*"):
            for old in (folder / cell.relative_to(incoming)).glob("checkpoint/*"):
                if not (cell / "checkpoint" / old.name).is_dir():
                    shutil.rmtree(old, ignore_errors=True)
