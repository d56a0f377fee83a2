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
from typing import Any, TextIO

from bakeoff.benchmarks.cells.standard_streams import silence_input


class Worker:
    """The jobs of one process."""

    def __init__(self, pipe: TextIO, stop: threading.Event) -> None:
        """Args:
        pipe: where events go.
        stop: set when the cell that runs is to write a checkpoint and end.
        """
        from bakeoff.benchmarks.cells.task_cache import TaskCache

        self._pipe = pipe
        self._cache = TaskCache()
        self._stop = stop

    def send(self, event: str, **details: Any) -> None:
        """Send one event to the parent; if the parent is gone, end at once, as if killed."""
        try:
            self._pipe.write(json.dumps({"event": event, **details}) + "\n")
            self._pipe.flush()
        except BrokenPipeError:
            os._exit(1)

    def do(self, job: Mapping[str, Any]) -> None:
        """Do one job and send how it ended."""
        from bakeoff.benchmarks.cells.jobs import perform

        outcome = perform(job, Path(job["folder"]), self._cache, self.send, self._stop.is_set)
        self.send(outcome.kind, **outcome.details)


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
    jobs: queue.Queue[Mapping[str, Any]] = queue.Queue()
    stop = threading.Event()

    def listen() -> None:
        for line in orders:
            job = json.loads(line)
            if job["job"] == "stop":
                stop.set()
            else:
                jobs.put(job)
        # The parent has closed the pipe, or is gone. What rewards have started is in this process's group: the parent, or the
        # guardian (see executors/guardian.py), kills it.
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()

    import torch  # takes seconds, in which the parent may end

    torch.set_num_threads(options["threads"])
    worker = Worker(pipe, stop)
    worker.send("ready")
    while True:
        worker.do(jobs.get())


if __name__ == "__main__":
    main()
