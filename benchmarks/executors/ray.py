"""Cells as tasks of a Ray cluster: Ray decides where they run, and restarts them when their worker or node dies.

A restarted cell resumes from its last checkpoint, on any node: from the shared run folder, or, where the nodes do not see it
(``ship``), from the copy that the event queue keeps.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bakeoff.benchmarks.executors.base import Interrupted, Job, Listener
from bakeoff.benchmarks.executors.ray_queue import EventQueue
from bakeoff.benchmarks.executors.ray_task import work
from bakeoff.benchmarks.executors.ray_task_table import TaskTable
from bakeoff.benchmarks.spec.parts import RaySpec
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.errors import UserError
from bakeoff.extras import optional

_POLL_SECONDS = 0.2
_REACH_SECONDS = 10.0


class RayExecutor:
    """Runs jobs on an existing Ray cluster, or on one that it starts on this machine."""

    def __init__(self, spec: RaySpec, slots: int, threads: int) -> None:
        """Connect to a cluster, or start one.

        Args:
            spec: where the cluster is, and what a cell requests of it.
            slots: cells at once on a cluster that is started here; an existing one decides by itself.
            threads: PyTorch's threads in each cell.

        Raises:
            UserError: Ray is not installed, or there is no cluster at the address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        os.environ.setdefault("RAY_task_oom_retries", str(spec.retries))  # Ray's default is unlimited
        self._ray = optional("ray", "ray", "--executor ray")
        self.threads = threads
        self._spec, self._owner = spec, not self._ray.is_initialized()
        if self._owner:
            self._connect(slots)
        queue = self._ray.remote(num_cpus=0)(EventQueue)
        here = _strategies(self._ray).NodeAffinitySchedulingStrategy(
            node_id=self._ray.get_runtime_context().get_node_id(), soft=False
        )
        self._queue = queue.options(scheduling_strategy=here).remote()
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
            # "auto" would find any cluster that runs here; one is used only when its address is given.
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
        """Refuse a request that no cell could start with here: Ray would wait silently. An existing cluster may grow."""
        gpus = float(self._ray.cluster_resources().get("GPU", 0.0))
        if self._spec.gpus > gpus:
            self.close()
            raise UserError(
                f"ray.gpus: a cell requests {self._spec.gpus:g} GPUs, and this machine has {gpus:g}; request fewer"
            )

    def run(self, jobs: Sequence[Job], listener: Listener) -> None:
        """Run all jobs; see :class:`~bakeoff.benchmarks.executors.base.Executor`."""
        table = TaskTable(self._ray, self._queue, self._submit, listener, self._spec.ship)
        try:
            for job in jobs:
                table.submit(job)
            while table.running:
                table.poll(_POLL_SECONDS)
                table.enforce_timeouts()
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                table.interrupt(_POLL_SECONDS)
            table.kill()
            raise Interrupted("interrupted; the same command resumes from here") from None

    def close(self) -> None:
        """Disconnect from the cluster; one that was started here ends."""
        with contextlib.suppress(Exception):
            self._ray.kill(self._queue)
        if self._owner:
            self._ray.shutdown()

    def _submit(self, number: int, job: Job) -> Any:
        folder = Path(str(job.message["folder"]))
        whole = atomic_files.read_json(folder / "manifest.json") or {}
        manifest = {name: whole.get(name) for name in ("schema", "created", "id")}  # its list of cells may be long
        manifest["suite"] = {"name": whole.get("suite", {}).get("name")}
        return self._work.options(name=job.title).remote(
            dict(job.message), number, self._queue, manifest, self.threads, self._spec.ship
        )


def _reach(address: str) -> None:
    """Refuse an address that accepts no connection: Ray would try for minutes, and then end the whole process.

    Raises:
        UserError: no connection.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # "auto", say: Ray finds it, or says that there is none
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster on {address}: {error}; check ray.address") from error


def _strategies(ray: Any) -> Any:
    from importlib import import_module

    return import_module("ray.util.scheduling_strategies")
