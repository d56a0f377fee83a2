"""The further processes of a cell that runs as several (``accelerate.processes``): they are started and ended here.

What they do is in :mod:`bakeoff.benchmarks.cells.rank_process`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bakeoff import distributed
from bakeoff.errors import UserError

_ADDRESS = "127.0.0.1"
_MODULE = "bakeoff.benchmarks.cells.rank_process"
"""What each further process runs."""
_GRACE_SECONDS = 10.0
"""How long the first process may take to notice by itself that another one has died."""


@contextlib.contextmanager
def worker_ranks(job: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Inside, this process is rank 0 of as many as the job asks for; the others have ended afterwards.

    If one of them dies, this process ends as well, since it may be waiting for it.

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
            order = {"job": job, "folder": str(folder), "rank": rank, "size": size, "gpu": gpu}
            order |= {"address": _ADDRESS, "port": port}
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
    process = subprocess.Popen([sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    process.stdin.write(json.dumps({**order, "threads": threads}).encode() + b"\n")
    process.stdin.flush()
    return process


def _watch(started: Iterable[subprocess.Popen[bytes]], over: threading.Event) -> None:
    """End this process where another rank has died and it did not notice."""
    while not over.wait(0.2):
        codes = [process.poll() for process in started]
        if any(code not in (None, 0) for code in codes):
            if not over.wait(_GRACE_SECONDS):
                print(f"bakeoff: another process of this cell died (exit codes {codes})", file=sys.stderr, flush=True)
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
