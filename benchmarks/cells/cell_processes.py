"""The further processes of a cell that runs as several (``accelerate.processes``): started here, and what they do.

Each plays the cell as the first process does, in step with it, and writes nothing (see :mod:`bakeoff.distributed`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bakeoff import distributed
from bakeoff.benchmarks.storage import checkpoint
from bakeoff.benchmarks.storage.cell_store import CellStore
from bakeoff.errors import UserError

_ADDRESS = "127.0.0.1"
_GRACE_SECONDS = 10.0
"""How long the first process may take to notice by itself that a partner has died."""


@contextlib.contextmanager
def worker_ranks(job: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Be the first of the processes that a job asks for inside; the others have ended afterwards.

    A partner that dies takes this process with it, in case it waits for the dead one.

    Raises:
        UserError: a device that cannot be shared out, or too few GPUs.
    """
    size = job.get("processes", 1)
    if size == 1:
        yield
        return
    gpu = _on_gpus(job["cell"]["task_settings"].get("device", "cpu"), size)
    threads = torch.get_num_threads()
    share = max(1, threads // size)
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        port = probe.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []
    over = threading.Event()
    try:
        for rank in range(1, size):
            order = {"job": job, "folder": str(folder), "rank": rank, "size": size, "port": port, "gpu": gpu}
            started.append(_start(order, share))
        threading.Thread(target=_watch, args=(started, over), daemon=True).start()
        torch.set_num_threads(share)
        with distributed.together(0, size, _ADDRESS, port, gpu=gpu):
            yield
    except BaseException:
        for process in started:
            process.kill()
        raise
    finally:
        over.set()
        torch.set_num_threads(threads)
        for process in started:
            _end(process)


def _on_gpus(device: str, size: int) -> bool:
    """Whether the processes work on GPUs, one each."""
    if device == "cpu":
        return False
    if device != "cuda":
        raise UserError(f'accelerate.processes is {size} and device "{device}"; use device: cuda, or cpu')
    seen = torch.cuda.device_count()
    if seen < size:
        raise UserError(f"accelerate.processes is {size}, one GPU for each, and {seen} can be seen here")
    return True


def _start(order: Mapping[str, Any], threads: int) -> subprocess.Popen[bytes]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        **dict.fromkeys(names, str(threads)),
    }
    process = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    process.stdin.write(json.dumps({**order, "threads": threads}).encode() + b"\n")
    process.stdin.flush()
    return process


def _watch(started: Iterable[subprocess.Popen[bytes]], over: threading.Event) -> None:
    """End this process where a partner has died and it did not notice."""
    while not over.wait(0.2):
        codes = [process.poll() for process in started]
        if any(code not in (None, 0) for code in codes):
            if not over.wait(_GRACE_SECONDS):
                print(f"bakeoff: a partner process of this cell died (exit codes {codes})", file=sys.stderr, flush=True)
                os._exit(1)
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


# ---------------------------------------------------------------- a partner's side


class ReadOnlyCellStore(CellStore):
    """A cell's folder as a partner has it: only read, to take up the checkpoint that the first process took."""

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: the cell's.
        """
        self.folder = folder

    def resume(self) -> Any | None:
        """The state that the first process resumes from."""
        name = distributed.broadcast(None)
        return None if name is None else checkpoint.load_state(self.folder / "checkpoint" / name)["state"]

    def close(self) -> None:
        """Nothing is open."""

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Nothing."""

    def append_metrics(self, step: int, phase: str, meter: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def append_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Nothing."""

    def append_records(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Nothing."""

    def save_checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """Nothing."""

    def replace_model(self, save: Any) -> None:
        """Nothing."""


def main() -> None:
    """Play one cell in step with the first process, which says which on the standard input and keeps it open."""
    from bakeoff.benchmarks.cells.cell_runner import Stopped, TaskCache, run_cell
    from bakeoff.benchmarks.cells.worker import silence_input
    from bakeoff.benchmarks.spec.cell import Cell
    from bakeoff.plugins import PluginFile, load_plugin

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    first = os.fdopen(os.dup(0), encoding="utf-8")
    silence_input()
    order = json.loads(first.readline())

    def wait_for_the_end() -> None:
        first.read()
        os._exit(0)  # the first process is gone

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    torch.set_num_threads(order["threads"])
    job = order["job"]
    for plugin in job.get("plugins", ()):
        load_plugin(PluginFile(**plugin))
    cell = Cell.from_json(job["cell"])
    with (
        distributed.together(order["rank"], order["size"], _ADDRESS, order["port"], gpu=order["gpu"]),
        contextlib.suppress(Stopped),
    ):
        run_cell(cell, Path(order["folder"]), TaskCache())


if __name__ == "__main__":
    main()
