"""What a worker does, in any kind of process: build a task, or run a cell and keep its status."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff.benchmarks.cells.cell_processes import worker_ranks
from bakeoff.benchmarks.cells.cell_runner import Progress, Stopped, run_cell
from bakeoff.benchmarks.cells.standard_streams import output_to
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage.cell_store import Status, now, row_sums
from bakeoff.errors import BakeoffError, RunFolderError
from bakeoff.plugins import PluginFile, load_plugin

_REPORT_EVERY = 0.25
_ERROR_LENGTH = 2000

SendEvent = Callable[..., None]
"""Takes an event's name and its details as keywords."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``done``, ``failed`` or ``stopped``."""

    kind: str
    details: Mapping[str, Any] = field(default_factory=dict)


def perform(
    job: Mapping[str, Any],
    folder: Path,
    cache: TaskCache,
    send: SendEvent,
    should_stop: Callable[[], bool],
    kept: Callable[[], None] = lambda: None,
) -> Outcome:
    """Do one job; an error in it is returned as an outcome, never raised.

    Args:
        job: ``check`` (build a task and describe it) or ``cell`` (run one).
        folder: the run folder to write to.
        cache: keeps what neighboring jobs share.
        send: takes ``progress`` events.
        should_stop: called after every update.
        kept: called when a checkpoint of the cell is on disk.
    """
    try:
        for plugin in job.get("plugins", ()):
            load_plugin(PluginFile(**plugin))
        if job["job"] == "check":
            return _check(job, cache)
        return _cell(job, folder, cache, send, should_stop, kept)
    except BaseException as error:  # a plugin may even call sys.exit
        cache.clear()  # what failed may have left the task's model in any state, and holds memory
        return Outcome("failed", {"error": error_line(error)})


def _check(job: Mapping[str, Any], cache: TaskCache) -> Outcome:
    """Build a task and return the facts of it that a report needs."""
    from bakeoff.benchmarks.storage import task_info

    task = cache.task(job["task"], job["settings"])
    for texts in (task.prompts.train, task.prompts.evaluation):  # as every cell will
        task.language_model.check_prompt_length(
            task.language_model.encode(list(texts)), list(texts), task.max_new_tokens
        )
    return Outcome("done", {"seconds": 0.0, "info": task_info.describe(job["label"], task, job["settings"])})


def _cell(
    job: Mapping[str, Any],
    home: Path,
    cache: TaskCache,
    send: SendEvent,
    should_stop: Callable[[], bool],
    kept: Callable[[], None],
) -> Outcome:
    cell = Cell.from_json(job["cell"])
    folder = home / cell.path
    if not home.is_dir():  # do not make it again: that would be half of a run
        raise RunFolderError(f"{home}: was moved or removed during the run; put it back, and the same command resumes")
    before = Status.read(folder)
    if before.is_done(folder):  # its worker died, or timed out, before it could report it
        _drop_leftovers(folder)
        return Outcome("done", {"seconds": before.seconds})
    attempts, began, started = before.attempts + 1, now(), time.perf_counter()
    last_reported = 0.0

    def report(progress: Progress) -> None:
        nonlocal last_reported
        if time.perf_counter() - last_reported >= _REPORT_EVERY or progress.share >= 1:
            last_reported = time.perf_counter()
            metrics = {name: value for name, value in progress.metrics.items() if value - value == 0}
            send("progress", share=progress.share, step=progress.step, metrics=metrics)

    found = before.note

    def note(text: str) -> None:
        nonlocal found
        found = text
        print(text, file=sys.stderr)

    def status(state: str, seconds: float, **details: Any) -> Status:
        return Status(state, attempts=attempts, seconds=seconds, started=began, ended=now(), note=found, **details)

    try:
        Status("running", attempts=attempts, seconds=before.seconds, started=began, note=before.note).write(folder)
        if job.get("processes", 1) > 1:
            cache.clear()  # the other ranks have an empty cache, and all have to do the same
        with _global_state_restored(), output_to(folder / "log.txt"), worker_ranks(job, folder):
            seconds = run_cell(
                cell,
                folder,
                cache,
                checkpoint_every=job["checkpoint_every"],
                report=report,
                should_stop=should_stop,
                kept=kept,
                trackers=job["trackers"],
                note=note,
            )
        status("done", seconds, sums=row_sums(folder)).write(folder)
    except Stopped:
        status("pending", before.seconds + time.perf_counter() - started).write(folder)
        return Outcome("stopped")
    except BaseException as error:
        took = before.seconds + time.perf_counter() - started
        with contextlib.suppress(OSError):  # a full disk, or no folder any more: the event still reports it
            home.stat()
            status("failed", took, error=error_line(error), traceback=traceback.format_exc()).write(folder)
        raise
    _drop_leftovers(folder)
    return Outcome("done", {"seconds": seconds})


def _drop_leftovers(folder: Path) -> None:
    """Remove what a finished cell does not need: its checkpoints, and an empty log."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    log = folder / "log.txt"
    if log.exists() and log.stat().st_size == 0:
        log.unlink()


@contextlib.contextmanager
def _global_state_restored() -> Iterator[None]:
    """Restore what a reward or an algorithm may change for the whole process, and so for the cells after it."""
    import torch

    kind, gradients, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    folder = None
    with contextlib.suppress(OSError):  # it may be gone
        folder = os.getcwd()
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        if folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(folder)
        torch.set_default_dtype(kind)
        torch.set_grad_enabled(gradients)
        torch.set_num_threads(threads)
        sys.stdout, sys.stderr = streams


def error_line(error: BaseException) -> str:
    """An exception in one line, with its type where it is not one of ours."""
    text = " ".join(str(error).split())
    if not isinstance(error, BakeoffError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:_ERROR_LENGTH]
