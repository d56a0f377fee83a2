"""PyTorch's threads in a cell: another number adds up in another order, which changes last digits, and then all that follows."""

from __future__ import annotations

from pathlib import Path

import torch

from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.storage import atomic_files

_MOST = 1024
"""More is no number of threads, whatever a folder says."""


def keep_threads(folder: Path, cache: TaskCache) -> None:
    """Take as many threads as the cell in this folder was begun with, if it is one that resumes."""
    config = atomic_files.read_json(folder / "config.json")
    noted = config.get("threads") if isinstance(config, dict) else None
    if not (isinstance(noted, int) and 1 <= noted <= _MOST and (folder / "checkpoint").is_dir()):
        return
    if noted != torch.get_num_threads():
        cache.clear()  # what the reference answered is kept there
        torch.set_num_threads(noted)
