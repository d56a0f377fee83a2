"""Cells as tasks of a Ray cluster: Ray decides where they run, and starts them again when their worker or node dies.

A cell that was started again goes on from its last checkpoint, wherever it now is: on the shared run folder, or, where
the nodes do not see it (``ship``), from the copy that the mailbox keeps.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import signal
import socket
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.benchmarks.executors.local import Event, Interrupted, Job, Listener
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.spec.parts import RaySpec
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.run_folder import INCOMING
from bakeoff.errors import UserError
from bakeoff.extras import optional

_POLL_SECONDS = 0.2
_REACH_SECONDS = 10.0


class RayExecutor:
    """Runs jobs on a Ray cluster that is there, or on one that it starts on this machine."""

    def __init__(self, spec: RaySpec, slots: int, threads: int) -> None:
        """Connect, or start.

        Args:
            spec: where the cluster is, and what a cell asks of it.
            slots: cells at once on a cluster that is started here; one that is there decides by itself.
            threads: PyTorch's threads in each cell.

        Raises:
            UserError: Ray is not installed, or there is no cluster at the address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of ours phones home
        os.environ.setdefault("RAY_task_oom_retries", str(spec.retries))  # Ray's default is without end
        self._ray = optional("ray", "ray", "--executor ray")
        self.threads = threads
        self._spec, self._owner = spec, not self._ray.is_initialized()
        if self._owner:
            self._connect(slots)
        mailbox = self._ray.remote(num_cpus=0)(EventQueue)
        here = _strategies(self._ray).NodeAffinitySchedulingStrategy(
            node_id=self._ray.get_runtime_context().get_node_id(), soft=False
        )
        self._mailbox = mailbox.options(scheduling_strategy=here).remote()
        # Here Ray counts whole cores; each cell takes so much of them that `slots` of them fit and no more.
        mine = self._owner and spec.address is None
        cpus = math.floor(math.ceil(slots * spec.cpus) / slots * 10_000) / 10_000 if mine else spec.cpus
        self._work = self._ray.remote(
            num_cpus=cpus, num_gpus=spec.gpus, max_retries=spec.retries, retry_exceptions=False
        )(work)
        if mine:
            self._check_size()

    def _connect(self, slots: int) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        options["runtime_env"] = {"env_vars": {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}}
        if self._spec.address is None:
            path = os.pathsep.join(path or os.getcwd() for path in sys.path)
            options["runtime_env"]["env_vars"]["PYTHONPATH"] = path
            options |= {"num_cpus": math.ceil(slots * self._spec.cpus), "include_dashboard": False}
            # "auto" would find somebody's cluster; a running one is used only when it is asked for.
            options["address"] = "local"
        else:
            _reach(self._spec.address)
            options["address"] = self._spec.address
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._ray.init(**options)
        except Exception as error:
            where = self._spec.address or "this machine"
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"no Ray cluster on {where}: {type(error).__name__}: {reason}; check ray.address"
            ) from error
        if threading.current_thread() is threading.main_thread():  # Ray puts its own in place
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _check_size(self) -> None:
        """Refuse what no cell could ever start with here: Ray would wait without a word. A cluster that is there may grow."""
        gpus = float(self._ray.cluster_resources().get("GPU", 0.0))
        if self._spec.gpus > gpus:
            self.close()
            raise UserError(
                f"ray.gpus: a cell asks for {self._spec.gpus:g} GPUs, and this machine has {gpus:g}; ask for fewer"
            )

    def run(self, jobs: Sequence[Job], listener: Listener) -> None:
        """Run all jobs; see :class:`~bakeoff.benchmarks.executors.local.Executor`."""
        board = _TaskTable(self._ray, self._mailbox, self._submit, listener, self._spec.ship)
        try:
            for job in jobs:
                board.submit(job)
            while board.running:
                board.look(_POLL_SECONDS)
                board.stop_the_late()
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                board.interrupt()
            board.kill()
            raise Interrupted("interrupted; the same command goes on from here") from None

    def close(self) -> None:
        """Let go of the cluster; one that was started here ends."""
        with contextlib.suppress(Exception):
            self._ray.kill(self._mailbox)
        if self._owner:
            self._ray.shutdown()

    def _submit(self, number: int, job: Job) -> Any:
        folder = Path(str(job.message["folder"]))
        whole = atomic_files.read_json(folder / "manifest.json") or {}
        manifest = {name: whole.get(name) for name in ("schema", "created", "id")}  # its list of cells may be long
        manifest["suite"] = {"name": whole.get("suite", {}).get("name")}
        return self._work.options(name=job.title).remote(
            dict(job.message), number, self._mailbox, manifest, self.threads, self._spec.ship
        )


def _reach(address: str) -> None:
    """Refuse an address where nobody listens: Ray would try for minutes, and then end the whole process.

    Raises:
        UserError: nobody answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # "auto", say: Ray finds it, or says that there is none
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster on {address}: {error}; check ray.address") from error


class _TaskTable:
    """The jobs that are under way, by number."""

    def __init__(
        self, ray: Any, mailbox: Any, submit: Callable[[int, Job], Any], listener: Listener, ships: bool
    ) -> None:
        self._ray, self._mailbox, self._submit, self._listener, self._ships = ray, mailbox, submit, listener, ships
        self.running: dict[int, tuple[Any, Job]] = {}
        self._since: dict[int, float] = {}
        self._late: set[int] = set()
        self._next = 0

    def submit(self, job: Job) -> None:
        self._next += 1
        if self._ships and "cell" in job.message:
            earlier = pack(Path(str(job.message["folder"])), [Cell.from_json(job.message["cell"]).path])
            self._ray.get(self._mailbox.keep.remote(self._next, earlier))
        self.running[self._next] = (self._submit(self._next, job), job)

    def look(self, timeout: float) -> None:
        """Hear what has happened."""
        numbers = {reference: number for number, (reference, _) in self.running.items()}
        ready, _ = self._ray.wait(list(numbers), num_returns=len(numbers), timeout=timeout)
        self._read_mail()
        for reference in ready:
            self._end(numbers[reference])

    def _read_mail(self) -> None:
        for number, event, details in self._ray.get(self._mailbox.empty.remote()):
            if number not in self.running:
                continue
            job = self.running[number][1]
            if event == "kept":
                self._write(self._ray.get(self._mailbox.copy.remote(number)), job)
                continue
            if event == "started":
                if number in self._since:  # no attempt of the suite's `retries`: `ray.retries` limits these
                    again = "its worker or node died; Ray has started it again"
                    self._listener(Event("retry", job, {"error": again}))
                else:
                    job.attempts += 1
                self._since[number] = time.monotonic()
            self._listener(Event(event, job, details))

    def _end(self, number: int) -> None:
        reference, job = self.running.pop(number)
        if self._since.pop(number, None) is None:  # it ended before its first letter came
            job.attempts += 1
        self._mailbox.drop.remote(number)
        kind, details = self._result(reference, job, number in self._late)
        self._late.discard(number)
        if kind == "failed" and job.attempts <= job.retries:
            self._listener(Event("retry", job, details))
            self.submit(job)
        else:
            self._listener(Event(kind, job, details))

    def _result(self, reference: Any, job: Job, late: bool) -> tuple[str, Mapping[str, Any]]:
        try:
            kind, details, copy = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            exit_reason = " ".join(str(error).split())[:300]
            reason = f"timed out after {job.timeout:g} s" if late else f"its worker died ({exit_reason})"
            return "failed", {"error": reason, "traceback": None, "died": True}
        self._write(copy, job)
        return kind, details

    def _write(self, copy: bytes | None, job: Job) -> None:
        if copy is not None:
            unpack(copy, Path(str(job.message["folder"])))

    def stop_the_late(self) -> None:
        """End what has run for longer than it may."""
        for number, (reference, job) in self.running.items():
            since = self._since.get(number)
            late = job.timeout is not None and since is not None and time.monotonic() - since > job.timeout
            if late and number not in self._late:
                self._late.add(number)
                self._ray.cancel(reference, force=True)

    def interrupt(self) -> None:
        """Ask for checkpoints and wait for them."""
        self._ray.get(self._mailbox.stop.remote())
        self._read_mail()  # what has started has to be known before what has not is canceled
        for number, (reference, _) in list(self.running.items()):
            if number not in self._since:
                self._ray.cancel(reference)
                del self.running[number]
        for _, job in self.running.values():
            job.retries = 0
            self._listener(Event("stopping", job))
        while self.running:
            self.look(_POLL_SECONDS)

    def kill(self) -> None:
        """End what is still running."""
        for reference, _ in self.running.values():
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)


class EventQueue:
    """An actor beside the driver: workers put events and copies of their cells in, the driver takes them out."""

    def __init__(self) -> None:
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._copies: dict[int, bytes] = {}
        self._stopping = False

    def put(self, number: int, event: str, details: dict[str, Any]) -> bool:
        """Take an event; answers whether all shall stop."""
        if self._events and event == "progress" and self._events[-1][:2] == (number, event):
            self._events.pop()  # the newest says it all
        self._events.append((number, event, details))
        return self._stopping

    def empty(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Give all events out."""
        events, self._events = self._events, []
        return events

    def keep(self, number: int, copy: bytes) -> None:
        """Keep a copy of a cell's folder, in case its node dies."""
        self._copies[number] = copy
        self._events.append((number, "kept", {}))

    def copy(self, number: int) -> bytes | None:
        """The last copy of a cell's folder."""
        return self._copies.get(number)

    def drop(self, number: int) -> None:
        """A job is over."""
        self._copies.pop(number, None)

    def stop(self) -> None:
        """All shall write a checkpoint and end."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether they shall."""
        return self._stopping


def work(
    message: Mapping[str, Any], number: int, mailbox: Any, manifest: Mapping[str, Any], threads: int, ship: bool
) -> tuple[str, Mapping[str, Any], bytes | None]:
    """A Ray task: do one job here; returns how it ended, and the cell's folder where it has to be sent."""
    import torch

    from bakeoff.benchmarks.cells.jobs import perform

    ray = optional("ray", "ray", "--executor ray")
    torch.set_num_threads(threads)
    mail = WorkerChannel(ray, mailbox, number)
    mail.tell("started")
    folder = Path(message["folder"])
    if not ship and (atomic_files.read_json(folder / "manifest.json") or {}).get("created") != manifest.get("created"):
        node = os.uname().nodename
        error = f"node {node} does not see {folder}; use a file system that all nodes share, or set ray.ship: true"
        return "failed", {"error": error}, None
    with contextlib.ExitStack() as stack:
        stack.enter_context(mail.listening())
        if ship:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bakeoff-")))
            copy = ray.get(mailbox.copy.remote(number))
            if copy is not None:
                unpack(copy, folder)
            atomic_files.write_json(folder / "manifest.json", manifest)  # trackers say which run it is

        def kept() -> None:
            if ship:
                ray.get(mailbox.keep.remote(number, pack(folder)))

        outcome = perform(message, folder, _cache(), mail.tell, mail.stop.is_set, kept)
        return outcome.kind, outcome.details, pack(folder) if ship else None


class WorkerChannel:
    """A worker's way to the mailbox."""

    def __init__(self, ray: Any, mailbox: Any, number: int) -> None:
        self._ray, self._mailbox, self._number = ray, mailbox, number
        self.stop = threading.Event()

    def tell(self, event: str, **details: Any) -> None:
        """Send an event to the driver."""
        self._mailbox.put.remote(self._number, event, details)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Ask from time to time, inside, whether to stop; without a mailbox, the run is over: end."""
        over = threading.Event()

        def ask() -> None:
            while not over.wait(1.0):
                try:
                    if self._ray.get(self._mailbox.stopping.remote(), timeout=60):
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
    """This process's own: Ray lets a worker do one task after the other."""
    from bakeoff.benchmarks.cells.cell_runner import TaskCache

    if not _kept_cache:
        _kept_cache.append(TaskCache())
    return _kept_cache[0]


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

    Rows come before checkpoints, and checkpoints that the sender has no longer are dropped last: a kill in between leaves
    one that fits.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=INCOMING) as place:
        incoming = Path(place)
        with tarfile.open(fileobj=io.BytesIO(archive)) as content:
            content.extractall(incoming, filter="data")
        arrived = [path for path in incoming.rglob("*") if path.is_file()]
        for path in sorted(arrived, key=lambda path: (path.suffix != ".jsonl", path)):
            target = folder / path.relative_to(incoming)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        for cell in incoming.glob("cells/*/*/seed-*"):
            for old in (folder / cell.relative_to(incoming)).glob("checkpoint/*"):
                if not (cell / "checkpoint" / old.name).is_dir():
                    shutil.rmtree(old, ignore_errors=True)


def _strategies(ray: Any) -> Any:
    from importlib import import_module

    return import_module("ray.util.scheduling_strategies")
