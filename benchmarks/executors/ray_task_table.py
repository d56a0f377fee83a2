"""The driver's view of the jobs that a Ray cluster runs: submitted, reported, retried, timed out and stopped here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bakeoff.benchmarks.executors.archive import pack, unpack
from bakeoff.benchmarks.executors.base import Event, Job, Listener
from bakeoff.benchmarks.spec.cell import Cell


class TaskTable:
    """The jobs that run, by number."""

    def __init__(
        self, ray: Any, queue: Any, submit: Callable[[int, Job], Any], listener: Listener, ships: bool
    ) -> None:
        self._ray, self._queue, self._submit, self._listener, self._ships = ray, queue, submit, listener, ships
        self.running: dict[int, tuple[Any, Job]] = {}
        self._since: dict[int, float] = {}
        self._timed_out: set[int] = set()
        self._next = 0

    def submit(self, job: Job) -> None:
        """Start a job on the cluster, with the copy of its cell that an earlier run left."""
        self._next += 1
        if self._ships and "cell" in job.message:
            earlier = pack(Path(str(job.message["folder"])), [Cell.from_json(job.message["cell"]).path])
            self._ray.get(self._queue.keep.remote(self._next, earlier))
        self.running[self._next] = (self._submit(self._next, job), job)

    def poll(self, timeout: float) -> None:
        """Read what has happened within ``timeout`` seconds at most."""
        numbers = {reference: number for number, (reference, _) in self.running.items()}
        ready, _ = self._ray.wait(list(numbers), num_returns=len(numbers), timeout=timeout)
        self._read_events()
        for reference in ready:
            self._end(numbers[reference])

    def _read_events(self) -> None:
        for number, event, details in self._ray.get(self._queue.take_all.remote()):
            if number not in self.running:
                continue
            job = self.running[number][1]
            if event == "kept":
                self._write(self._ray.get(self._queue.copy.remote(number)), job)
                continue
            if event == "started":
                if number in self._since:  # no attempt of the suite's `retries`: `ray.retries` limits these
                    restarted = "its worker or node died; Ray has restarted it"
                    self._listener(Event("retry", job, {"error": restarted}))
                else:
                    job.attempts += 1
                self._since[number] = time.monotonic()
            self._listener(Event(event, job, details))

    def _end(self, number: int) -> None:
        reference, job = self.running.pop(number)
        if self._since.pop(number, None) is None:  # it ended before its first event came
            job.attempts += 1
        self._queue.drop.remote(number)
        kind, details = self._result(reference, job, number in self._timed_out)
        self._timed_out.discard(number)
        if kind == "failed" and job.attempts <= job.retries:
            self._listener(Event("retry", job, details))
            self.submit(job)
        else:
            self._listener(Event(kind, job, details))

    def _result(self, reference: Any, job: Job, timed_out: bool) -> tuple[str, Mapping[str, Any]]:
        try:
            kind, details, copy = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            exit_reason = " ".join(str(error).split())[:300]
            reason = f"timed out after {job.timeout:g} s" if timed_out else f"its worker died ({exit_reason})"
            return "failed", {"error": reason, "traceback": None, "died": True}
        self._write(copy, job)
        return kind, details

    def _write(self, copy: bytes | None, job: Job) -> None:
        if copy is not None:
            unpack(copy, Path(str(job.message["folder"])))

    def enforce_timeouts(self) -> None:
        """Cancel the jobs that have run for longer than their timeout."""
        for number, (reference, job) in self.running.items():
            since = self._since.get(number)
            overdue = job.timeout is not None and since is not None and time.monotonic() - since > job.timeout
            if overdue and number not in self._timed_out:
                self._timed_out.add(number)
                self._ray.cancel(reference, force=True)

    def interrupt(self, poll_seconds: float) -> None:
        """Request checkpoints and wait for them."""
        self._ray.get(self._queue.stop.remote())
        self._read_events()  # what has started has to be known before what has not is canceled
        for number, (reference, _) in list(self.running.items()):
            if number not in self._since:
                self._ray.cancel(reference)
                del self.running[number]
        for _, job in self.running.values():
            job.retries = 0
            self._listener(Event("stopping", job))
        while self.running:
            self.poll(poll_seconds)

    def kill(self) -> None:
        """Cancel all jobs that still run."""
        for reference, _ in self.running.values():
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
