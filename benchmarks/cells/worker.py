"""A worker process: reads jobs as lines of JSON on its standard input, and writes their events to its standard output.

A fresh interpreter and not a fork, so no lock or thread of the parent is copied; and not ``multiprocessing``, so a
user's script needs no ``if __name__ == "__main__"``. It ends when its input ends: the process that started it is gone then.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

from bakeoff.benchmarks.cells.standard_streams import silence_input


class Worker:
    """The jobs of one process."""

    def __init__(self, pipe: TextIO) -> None:
        """Args:
        pipe: where events go.
        """
        from bakeoff.benchmarks.cells.task_cache import TaskCache

        self._pipe = pipe
        self._cache = TaskCache()
        self.stop = threading.Event()

    def send(self, event: str, **details: Any) -> None:
        """Send one event to the parent; if the parent is gone, end at once, as if killed."""
        try:
            self._pipe.write(json.dumps({"event": event, **details}) + "\n")
            self._pipe.flush()
        except BrokenPipeError:
            end_with_children(1)

    def do(self, job: Mapping[str, Any]) -> None:
        """Do one job and send how it ended."""
        from bakeoff.benchmarks.cells.jobs import perform

        outcome = perform(job, Path(job["folder"]), self._cache, self.send, self.stop.is_set)
        self.send(outcome.kind, **outcome.details)


def end_with_children(code: int) -> NoReturn:
    """End at once, with all processes that a reward has started: this process leads a group of its own."""
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
    os._exit(code)


def main() -> None:
    """Serve jobs until the input ends."""
    # Only this module may use the pipes to the parent: neither print() nor input() nor a child process.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    silence_input()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us to stop
    faulthandler.enable()
    options = json.loads(sys.argv[1])

    import torch

    torch.set_num_threads(options["threads"])
    worker = Worker(pipe)
    jobs: queue.Queue[Mapping[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in orders:
            job = json.loads(line)
            if job["job"] == "stop":
                worker.stop.set()
            else:
                jobs.put(job)
        end_with_children(0)  # the parent has closed the pipe, or is gone

    threading.Thread(target=listen, daemon=True).start()
    worker.send("ready")
    while True:
        worker.do(jobs.get())


if __name__ == "__main__":
    main()
