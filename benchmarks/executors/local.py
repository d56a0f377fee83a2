"""``local``: worker processes on this machine; if one fails, the others continue."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bakeoff.benchmarks.executors.base import Event, Interrupted, Job, Listener
from bakeoff.benchmarks.executors.guardian import Guardian
from bakeoff.errors import BakeoffError


class LocalExecutor:
    """Worker processes on this machine, each with an equal share of the cores."""

    def __init__(self, workers: int, threads: int, module: str = "bakeoff.benchmarks.cells.worker") -> None:
        """Args:
        workers: how many processes at most.
        threads: PyTorch's threads in each.
        module: what a worker process runs.
        """
        self.workers, self.threads, self._module = workers, threads, module
        self._processes: list[_Process] = []
        self._guardian: Guardian | None = None

    def run(self, jobs: Sequence[Job], listener: Listener) -> None:
        """Run all jobs; see :class:`~bakeoff.benchmarks.executors.base.Executor`."""
        waiting = deque(jobs)
        try:
            with selectors.DefaultSelector() as selector:
                for process in self._processes:
                    selector.register(process.output, selectors.EVENT_READ, process)
                while waiting or any(process.job for process in self._processes):
                    self._assign_jobs(waiting, selector, listener)
                    for key, _ in selector.select(timeout=0.2):
                        self._read_events(key.data, waiting, selector, listener)
                    self._reap_exited(waiting, selector, listener)
                    self._enforce_timeouts(waiting, selector, listener)
        except KeyboardInterrupt:
            self._interrupt(listener)
            raise Interrupted("interrupted; the same command resumes from here") from None

    def close(self) -> None:
        """End all workers: idle ones by themselves, busy ones by force."""
        for process in self._processes:
            process.close_input()
        for process in self._processes:
            self._end(process)
        self._processes.clear()
        if self._guardian is not None:
            self._guardian.close()
            self._guardian = None

    def _start(self, selector: selectors.BaseSelector) -> None:
        self._guardian = self._guardian or Guardian()
        process = _Process(self.threads, self._module)
        self._guardian.watch(process.group)
        self._processes.append(process)
        selector.register(process.output, selectors.EVENT_READ, process)

    def _end(self, process: _Process) -> str:
        exit_reason = process.end()
        if self._guardian is not None:
            self._guardian.forget(process.group)
        return exit_reason

    def _assign_jobs(self, waiting: deque[Job], selector: selectors.BaseSelector, listener: Listener) -> None:
        busy = sum(process.job is not None for process in self._processes)
        while len(self._processes) < min(self.workers, busy + len(waiting)):
            self._start(selector)
        for process in self._processes:
            if process.ready and process.job is None and waiting:
                job = next((job for job in waiting if job.affinity == process.affinity), waiting[0])
                waiting.remove(job)
                job.attempts += 1
                process.start(job)
                listener(Event("started", job))

    def _read_events(
        self, process: _Process, waiting: deque[Job], selector: selectors.BaseSelector, listener: Listener
    ) -> None:
        failed = False
        for message in process.read():
            kind, job = message.pop("event"), process.job
            if kind == "ready":
                process.ready = True
            elif job is not None:
                if kind == "progress":
                    listener(Event(kind, job, message))
                else:
                    process.job = None
                    failed |= kind == "failed"
                    self._ended(kind, job, message, waiting, listener)
        if failed:  # what broke its job may have broken more: the next one gets a new process
            process.kill()
        if failed or process.closed:
            self._remove(process, "", waiting, selector, listener)

    def _remove(
        self, process: _Process, reason: str, waiting: deque[Job], selector: selectors.BaseSelector, listener: Listener
    ) -> None:
        """Remove a process that has exited: its job failed, and another process is started when needed."""
        selector.unregister(process.output)
        self._processes.remove(process)
        job, exit_reason = process.job, self._end(process)
        if job is not None:
            error = reason or f"its worker process died ({exit_reason})"
            self._ended("failed", job, {"error": error, "traceback": None, "died": True}, waiting, listener)
        elif not process.ready:
            raise BakeoffError(f"a worker process cannot start ({exit_reason}): {process.last_stderr_line}")

    def _reap_exited(self, waiting: deque[Job], selector: selectors.BaseSelector, listener: Listener) -> None:
        """Notice exits that close no pipe, since a process that the worker has started holds it open."""
        for process in list(self._processes):
            if process.exited and not process.has_output():
                process.kill()
                self._remove(process, "", waiting, selector, listener)

    def _ended(self, kind: str, job: Job, details: Mapping[str, Any], waiting: deque[Job], listener: Listener) -> None:
        if kind == "failed" and job.attempts <= job.retries:
            listener(Event("retry", job, details))
            waiting.append(job)
        else:
            listener(Event(kind, job, details))

    def _enforce_timeouts(self, waiting: deque[Job], selector: selectors.BaseSelector, listener: Listener) -> None:
        for process in list(self._processes):
            job = process.job
            if job is not None and job.timeout is not None and time.monotonic() - process.since > job.timeout:
                process.kill()
                self._remove(process, f"timed out after {job.timeout:g} s", waiting, selector, listener)

    def _interrupt(self, listener: Listener) -> None:
        """Request checkpoints and wait for them, however long the updates take; a second Ctrl-C ends all at once."""
        busy = [process for process in self._processes if process.job is not None]
        with contextlib.suppress(KeyboardInterrupt):
            for process in busy:
                process.send({"job": "stop"})
                if process.job is not None:
                    listener(Event("stopping", process.job))
            while any(process.job for process in busy):
                for process in busy:
                    for message in process.read(timeout=0.05):
                        if message["event"] in ("done", "failed", "stopped") and process.job is not None:
                            listener(Event(message.pop("event"), process.job, message))
                            process.job = None
                    if process.closed or (process.exited and not process.has_output()):
                        process.job = None
        for process in self._processes:
            process.kill()
        self.close()


class _Process:
    """One worker process, as the executor sees it."""

    def __init__(self, threads: int, module: str) -> None:
        self.job: Job | None = None
        self.affinity = ""
        self.since = 0.0
        self.ready = self.closed = False
        self.last_stderr_line = ""
        self._pending = b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        options = json.dumps({"threads": threads})
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",
        }
        self._popen = subprocess.Popen(
            [sys.executable, "-m", module, options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            bufsize=0,
            start_new_session=True,  # a terminal's Ctrl-C is ours to handle
        )
        assert self._popen.stdout is not None
        self.output = self._popen.stdout
        self.group = self._popen.pid

    def start(self, job: Job) -> None:
        self.job, self.affinity, self.since = job, job.affinity, time.monotonic()
        self.send(job.message)

    def send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # its exit is noticed on its output
            assert self._popen.stdin is not None
            self._popen.stdin.write(json.dumps(message).encode() + b"\n")

    def read(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """The messages that have arrived; waits for some up to ``timeout``, without one for as long as it takes."""
        if timeout is not None:
            with selectors.DefaultSelector() as selector:
                selector.register(self.output, selectors.EVENT_READ)
                if not selector.select(timeout):
                    return
        chunk = os.read(self.output.fileno(), 1 << 16)
        self.closed = not chunk
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)

    @property
    def exited(self) -> bool:
        """Whether the process has ended."""
        return self._popen.poll() is not None

    def has_output(self) -> bool:
        """Whether there is something to read, the end of the stream included."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.output, selectors.EVENT_READ)
            return bool(selector.select(0))

    def kill(self) -> None:
        """End it at once, with all processes that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGKILL)

    def close_input(self) -> None:
        """Ask it to end: a worker does when its input has ended."""
        with contextlib.suppress(OSError):
            assert self._popen.stdin is not None
            self._popen.stdin.close()

    def end(self) -> str:
        """Close its input, wait for its end, and return how it ended."""
        self.close_input()
        try:
            code = self._popen.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._popen.wait()
        self.kill()  # what a reward has started may have outlived it
        self.output.close()
        with self._stderr as file:
            file.seek(0)
            self.last_stderr_line = (
                file.read().decode(errors="replace").strip().splitlines() or ["no output on standard error"]
            )[-1]
        if code == -signal.SIGKILL:
            return "killed by signal 9; out of memory?"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
