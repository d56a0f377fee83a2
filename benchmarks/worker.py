"""A worker process: takes cells as lines of JSON on its standard input, and tells on its standard output how they go.

A fresh interpreter and not a fork, so no lock or thread of the parent is copied; and not ``multiprocessing``, so a
user's script needs no ``if __name__ == "__main__"``. It ends when its input ends: whoever started it is gone then.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

_TELL_EVERY = 0.25
_ERROR_LENGTH = 2000


class Worker:
    """The jobs of one process."""

    def __init__(self, folder: Path, wire: TextIO) -> None:
        """Args:
        folder: the run folder.
        wire: where events go.
        """
        from bakeoff.benchmarks.runner import Workshop

        self.folder, self._wire = folder, wire
        self.workshop = Workshop()
        self.stop = threading.Event()
        self._told = 0.0

    def tell(self, event: str, **details: Any) -> None:
        """Send one event to the parent; without one to hear it, end at once, as if killed."""
        try:
            self._wire.write(json.dumps({"event": event, **details}) + "\n")
            self._wire.flush()
        except BrokenPipeError:
            os._exit(1)

    def do(self, job: Mapping[str, Any]) -> None:
        """Do one job and tell its end; nothing that goes wrong in it gets out."""
        from bakeoff.plugins import PluginFile, take_in

        run = {"check": self._check, "cell": self._cell}[job["job"]]
        try:
            for plugin in job.get("plugins", ()):
                take_in(PluginFile(**plugin))
            run(job)
        except BaseException as error:  # a plugin may even call sys.exit
            self.tell("failed", error=_one_line(error))

    def _check(self, job: Mapping[str, Any]) -> None:
        """Build a task and write what a report needs to know of it."""
        from bakeoff.benchmarks import files, task_info

        task = self.workshop.task(job["task"], job["settings"])
        home = self.folder / "tasks"
        home.mkdir(exist_ok=True)
        files.write_json(home / f"{job['label']}.json", task_info.describe(job["label"], task))
        self.tell("done", seconds=0.0)

    def _cell(self, job: Mapping[str, Any]) -> None:
        from bakeoff.benchmarks.cell import Cell
        from bakeoff.benchmarks.runner import Progress, Stopped, run_cell
        from bakeoff.benchmarks.store import Status, now

        cell = Cell.from_json(job["cell"])
        folder = self.folder / cell.path
        before = Status.read(folder)
        attempts, began, started = before.attempts + 1, now(), time.perf_counter()
        Status("running", attempts=attempts, seconds=before.seconds, started=began).write(folder)

        def report(progress: Progress) -> None:
            if time.perf_counter() - self._told >= _TELL_EVERY or progress.share >= 1:
                self._told = time.perf_counter()
                metrics = {name: value for name, value in progress.metrics.items() if value - value == 0}
                self.tell("progress", share=progress.share, step=progress.step, metrics=metrics)

        def status(state: str, seconds: float, **details: Any) -> Status:
            return Status(state, attempts=attempts, seconds=seconds, started=began, ended=now(), **details)

        try:
            with _output_to(folder / "log.txt"):
                seconds = run_cell(
                    cell,
                    folder,
                    self.workshop,
                    checkpoint_every=job["checkpoint_every"],
                    report=report,
                    should_stop=self.stop.is_set,
                )
        except Stopped:
            status("pending", before.seconds + time.perf_counter() - started).write(folder)
            self.tell("stopped")
            return
        except BaseException as error:
            took = before.seconds + time.perf_counter() - started
            with contextlib.suppress(OSError):  # a full disk: the event still says it
                status("failed", took, error=_one_line(error), traceback=traceback.format_exc()).write(folder)
            raise
        status("done", seconds).write(folder)
        _drop_leftovers(folder)
        self.tell("done", seconds=seconds)


def _drop_leftovers(folder: Path) -> None:
    """A finished cell needs no checkpoint, and no log that says nothing."""
    import shutil

    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    log = folder / "log.txt"
    if log.exists() and log.stat().st_size == 0:
        log.unlink()


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send whatever is printed, by C libraries too, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def _one_line(error: BaseException) -> str:
    from bakeoff.errors import BakeoffError

    text = " ".join(str(error).split())
    if not isinstance(error, BakeoffError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:_ERROR_LENGTH]


def main() -> None:
    """Serve jobs until the input ends."""
    # Keep the wire to the parent for ourselves: print() must not reach it.
    wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us to stop
    faulthandler.enable()
    options = json.loads(sys.argv[1])

    import torch

    torch.set_num_threads(options["threads"])
    worker = Worker(Path(options["folder"]), wire)
    jobs: queue.Queue[Mapping[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            job = json.loads(line)
            if job["job"] == "stop":
                worker.stop.set()
            else:
                jobs.put(job)
        os._exit(0)  # the parent has closed the line, or is gone: nobody would hear the rest

    threading.Thread(target=listen, daemon=True).start()
    worker.tell("ready")
    while True:
        worker.do(jobs.get())


if __name__ == "__main__":
    main()
