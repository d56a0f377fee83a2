"""A whole run of a suite into a folder: every cell ends done, failed or paused."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bakeoff.benchmarks.executors.base import Event, Executor, Interrupted, Job, Listener
from bakeoff.benchmarks.executors.local import LocalExecutor
from bakeoff.benchmarks.progress import Display
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.spec.schema import Suite, select
from bakeoff.benchmarks.storage import atomic_files, run_folder
from bakeoff.benchmarks.storage.cell_store import Status, now
from bakeoff.errors import NotFoundError, RunFolderError, UserError
from bakeoff.plugins import PluginFile
from bakeoff.processors import cores

__all__ = ["Interrupted", "RunOutcome", "run_suite"]

EXECUTORS = ("local", "ray")
"""Names for ``--executor``."""


@dataclass
class RunOutcome:
    """How a run ended."""

    folder: Path
    """The run folder."""
    done: list[str] = field(default_factory=list)
    """Cells that are done, now or before, by their path."""
    failed: dict[str, str] = field(default_factory=dict)
    """Cells that failed, with one line each."""


def run_suite(
    suite: Suite,
    folder: Path,
    *,
    workers: int | None = None,
    only: Sequence[str] = (),
    display: Display | None = None,
    command: str | None = None,
    plugins: Sequence[PluginFile] = (),
    executor: str | Executor = "local",
) -> RunOutcome:
    """Run the cells of a suite that are not done yet.

    Args:
        suite: a checked suite.
        folder: the run folder; made, or resumed.
        workers: cells at once; by default as many as there are cores, or as many as fit with all their processes.
        only: labels to run; all by default.
        display: shows progress; silent by default.
        command: how to repeat this run, for the record.
        plugins: files whose names the suite may use; every worker runs them too.
        executor: ``local``, ``ray``, or an existing one, which is left open and has its own workers.

    Raises:
        RunFolderError: the folder cannot be used.
        UserError: a task cannot be built; nothing was run then.
        Interrupted: Ctrl-C; what is done is kept.
    """
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise UserError(f"workers is {workers!r}; give a whole number of at least 1")
    only = [only] if isinstance(only, str) else only
    folder = folder.absolute()
    display = display or Display(quiet=True)
    cells = select(suite.cells(), only) if only else suite.cells()
    if isinstance(executor, str) and executor not in EXECUTORS:
        raise NotFoundError("executor", executor, EXECUTORS)
    run_folder.make(folder)
    with run_folder.disk_errors(folder), run_folder.locked(folder):
        manifest = run_folder.open_folder(
            folder,
            suite,
            threads_of(executor, suite, workers),
            command or shlex.join(["bakeoff", *sys.argv[1:]]),
            plugins,
        )
        outcome = RunOutcome(folder)
        todo = []
        for cell in cells:
            if Status.read(folder / cell.path).is_done(folder / cell.path):
                outcome.done.append(cell.path)
            else:
                todo.append(cell)
        if not todo:
            return outcome
        with contextlib.ExitStack() as stack:
            if isinstance(executor, str):
                # The number of threads can change the last digits of a sum, so a folder keeps the number it was begun with.
                threads = int(manifest["machine"]["threads_per_cell"])
                executor = make_executor(executor, suite, threads, workers, most=len(todo))
                stack.callback(executor.close)
            _check_tasks(suite, todo, folder, executor, display, plugins)
            with display.showing(len(cells), len(outcome.done)):
                _run_cells(suite, todo, folder, executor, display, outcome, plugins)
    return outcome


def make_executor(
    name: str, suite: Suite, threads: int, workers: int | None = None, most: int | None = None
) -> Executor:
    """The executor of that name, ready to run a suite's cells; at most ``most`` at once.

    Raises:
        UserError: it cannot be used.
    """
    if name == "ray":
        from bakeoff.benchmarks.executors.ray import RayExecutor

        return RayExecutor(suite.ray, workers or max(1, int(cores() / suite.ray.cpus)), threads)
    workers = workers or _workers(suite)
    return LocalExecutor(workers if most is None else min(workers, most), threads)


def threads_of(executor: str | Executor, suite: Suite, workers: int | None) -> int:
    """PyTorch's threads in each cell, all its processes together: an equal share of the cores, or what a cell requests of Ray."""
    if not isinstance(executor, str):
        return executor.threads
    if executor == "ray":
        return max(1, int(suite.ray.cpus))
    return max(1, cores() // (workers or _workers(suite)))


def _workers(suite: Suite) -> int:
    """Cells at once by default: one per core, or per as many cores as a cell has processes; one where tasks are on a GPU,
    whose memory they would share."""
    if any(task.__pydantic_extra__.get("device", "cpu") != "cpu" for task in suite.tasks.values()):
        return 1
    return max(1, cores() // suite.accelerate.processes)


def _check_tasks(
    suite: Suite,
    cells: Sequence[Cell],
    folder: Path,
    executor: Executor,
    display: Display,
    plugins: Sequence[PluginFile],
) -> None:
    """Build every task once before the first cell: bad input must be found before hours are spent."""
    jobs = {
        cell.task: Job(
            f"task {cell.task}",
            {
                "job": "check",
                "folder": str(folder),
                "label": cell.task,
                "task": cell.task_name,
                "settings": cell.task_settings,
                "plugins": [plugin.to_json() for plugin in plugins],
            },
            affinity=cell.task,
            timeout=suite.timeout,
        )
        for cell in cells
    }
    problems = []

    def listen(event: Event) -> None:
        if event.kind == "started":
            display.note(f"building {event.job.title}")
        elif event.kind == "failed":
            problems.append(f"{event.job.title}: {event.details['error']}")
        elif event.kind == "done":
            label, info = str(event.job.message["label"]), event.details["info"]
            known = (
                atomic_files.read_json(home / f"{label}.json") if any(folder.glob(f"cells/{label}/*/seed-*")) else None
            )
            changed = _changed(known, info)
            if changed:
                problems.append(
                    f"{event.job.title}: its {' and '.join(changed)} differ from those that this folder was begun with; "
                    "restore them, or choose another --out"
                )
            else:
                atomic_files.write_json(home / f"{label}.json", info)

    home = folder / "tasks"
    home.mkdir(exist_ok=True)
    executor.run(list(jobs.values()), listen)
    if problems:
        raise UserError("\n".join(problems))


def _changed(before: Any, now: Mapping[str, Any]) -> list[str]:
    """The inputs of a task (its prompts, its model) that differ from those recorded before."""
    noted = before.get("inputs") if isinstance(before, dict) else None
    return [
        name for name, value in now["inputs"].items() if isinstance(noted, dict) and noted.get(name, value) != value
    ]


def _run_cells(
    suite: Suite,
    cells: Sequence[Cell],
    folder: Path,
    executor: Executor,
    display: Display,
    outcome: RunOutcome,
    plugins: Sequence[PluginFile],
) -> None:
    by_job: dict[int, Cell] = {}
    jobs = []
    for cell in cells:
        job = Job(
            cell.title,
            {
                "job": "cell",
                "folder": str(folder),
                "cell": cell.to_json(),
                "checkpoint_every": suite.checkpoint_every,
                "trackers": suite.trackers,
                "processes": suite.accelerate.processes,
                "plugins": [plugin.to_json() for plugin in plugins],
            },
            affinity=cell.task,
            timeout=suite.timeout,
            retries=suite.retries,
        )
        by_job[id(job)] = cell
        jobs.append(job)
    executor.run(jobs, _listener(by_job, folder, display, outcome))


def _listener(by_job: dict[int, Cell], folder: Path, display: Display, outcome: RunOutcome) -> Listener:
    def listen(event: Event) -> None:
        if not (folder / "manifest.json").exists():
            raise RunFolderError(
                f"{folder}: was moved or removed during the run; put it back, and the same command resumes"
            )
        cell = by_job[id(event.job)]
        if event.kind == "failed" or (event.kind == "retry" and event.details.get("died")):
            event = _record_failure(event, folder / cell.path)
        if event.kind == "done":
            outcome.done.append(cell.path)
        elif event.kind == "failed":
            outcome.failed[cell.path] = str(event.details["error"])
        display.show(event)

    return listen


def _record_failure(event: Event, folder: Path) -> Event:
    """Write a failed cell's status where its worker could not: it has died, or the disk was full."""
    status = Status.read(folder)
    if not event.details.get("died"):
        if status.status != "failed":
            with contextlib.suppress(OSError):
                replace(status, status="failed", error=str(event.details["error"]), ended=now()).write(folder)
        return event
    if status.is_done(folder):  # it had just finished; on a retry the next worker sees that at once
        return event if event.kind == "retry" else Event("done", event.job, {"seconds": status.seconds})
    log = folder / "log.txt"
    seen = "; see log.txt in its folder" if log.exists() and log.stat().st_size else ""
    error = f"{event.details['error']}{seen}"
    attempts = max(status.attempts, event.job.attempts)
    with contextlib.suppress(OSError):
        replace(status, status="failed", error=error, traceback=None, attempts=attempts, ended=now()).write(folder)
    return Event(event.kind, event.job, {**event.details, "error": error})
