"""The module that each further process of a cell runs (see :mod:`bakeoff.benchmarks.cells.cell_processes`).

It does what rank 0 does, in step with it (see :mod:`bakeoff.distributed`), and writes nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import threading
from pathlib import Path

import torch

from bakeoff import distributed
from bakeoff.benchmarks.cells.cell_runner import Stopped, run_cell
from bakeoff.benchmarks.cells.standard_streams import silence_input
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.plugins import PluginFile, load_plugin


def main() -> None:
    """Run one cell in step with rank 0, which sends the job on the standard input and keeps it open until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    first = os.fdopen(os.dup(0), encoding="utf-8")
    silence_input()
    order = json.loads(first.readline())

    def wait_for_the_end() -> None:
        first.read()
        os._exit(0)  # rank 0 is gone

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    torch.set_num_threads(order["threads"])
    job = order["job"]
    for plugin in job.get("plugins", ()):
        load_plugin(PluginFile(**plugin))
    cell = Cell.from_json(job["cell"])
    with (
        distributed.together(order["rank"], order["size"], order["address"], order["port"], gpu=order["gpu"]),
        contextlib.suppress(Stopped),
    ):
        run_cell(cell, Path(order["folder"]), TaskCache())


if __name__ == "__main__":
    main()
