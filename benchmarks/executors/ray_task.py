"""What runs on a Ray worker: one job, with its events sent to the driver's queue."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bakeoff.benchmarks.executors.archive import pack, unpack
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.extras import optional


def work(
    message: Mapping[str, Any], number: int, queue: Any, manifest: Mapping[str, Any], threads: int, ship: bool
) -> tuple[str, Mapping[str, Any], bytes | None]:
    """A Ray task: do one job here; returns how it ended, and the cell's folder where it has to be sent."""
    import torch

    from bakeoff.benchmarks.cells.jobs import perform

    ray = optional("ray", "ray", "--executor ray")
    torch.set_num_threads(threads)
    channel = WorkerChannel(ray, queue, number)
    channel.send("started")
    folder = Path(message["folder"])
    if not ship and (atomic_files.read_json(folder / "manifest.json") or {}).get("created") != manifest.get("created"):
        node = os.uname().nodename
        error = f"node {node} does not see {folder}; use a file system that all nodes share, or set ray.ship: true"
        return "failed", {"error": error}, None
    with contextlib.ExitStack() as stack:
        stack.enter_context(channel.listening())
        if ship:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bakeoff-")))
            copy = ray.get(queue.copy.remote(number))
            if copy is not None:
                unpack(copy, folder)
            atomic_files.write_json(folder / "manifest.json", manifest)  # trackers record which run it is

        def kept() -> None:
            if ship:
                ray.get(queue.keep.remote(number, pack(folder)))

        outcome = perform(message, folder, _cache(), channel.send, channel.stop.is_set, kept)
        return outcome.kind, outcome.details, pack(folder) if ship else None


class WorkerChannel:
    """A worker's connection to the event queue."""

    def __init__(self, ray: Any, queue: Any, number: int) -> None:
        self._ray, self._queue, self._number = ray, queue, number
        self.stop = threading.Event()

    def send(self, event: str, **details: Any) -> None:
        """Send an event to the driver."""
        self._queue.put.remote(self._number, event, details)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, ask once per second whether to stop; without a queue the run is over: stop."""
        over = threading.Event()

        def ask() -> None:
            while not over.wait(1.0):
                try:
                    if self._ray.get(self._queue.stopping.remote(), timeout=60):
                        self.stop.set()
                except Exception:
                    self.stop.set()
                    return

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()


_kept_cache: list[Any] = []


def _cache() -> Any:
    """This process's cache: a Ray worker does one task after the other."""
    from bakeoff.benchmarks.cells.task_cache import TaskCache

    if not _kept_cache:
        _kept_cache.append(TaskCache())
    return _kept_cache[0]
