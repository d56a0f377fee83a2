"""What the harness costs: its share of a `reviews` PPO cell, and thousands of cells that have next to nothing to do.

python benchmarks/speed/harness.py share --updates 40
python benchmarks/speed/harness.py many --cells 2000 --workers 2
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import bakeoff
from bakeoff.algos.core import build as algorithms
from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.benchmarks.cells.jobs import perform
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation.evaluator import Evaluator
from bakeoff.benchmarks.run import run_suite
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.spec.validation import load_suite


def share(updates: int, algorithm: str) -> dict[str, float]:
    """Wall-clock seconds of one cell, and of what in it is the contestant's, the evaluation's, and building both."""
    torch.set_num_threads(1)
    queries = 64 * updates
    evaluate = {"every": {"reward_queries": queries / 10}, "completions": 256, "samples": 8}
    cell = Cell("reviews", "reviews", {}, algorithm, algorithm, {}, 0, {"reward_queries": queries}, evaluate)
    spent = watched(algorithm)
    with tempfile.TemporaryDirectory() as folder:
        wall = played([cell], Path(folder), TaskCache())
    harness = wall - sum(spent.values())
    return {"wall": wall, **spent, "harness": harness, "share_percent": 100 * harness / wall}


def watched(algorithm: str) -> dict[str, float]:
    """Seconds, by kind, that cells of this process spend from now on in what is no harness: their own work."""
    spent = {"update": 0.0, "evaluate": 0.0, "build": 0.0, "save": 0.0}

    def timed(name: str, function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    kind = bakeoff.registry.algorithms.load(algorithm)
    assert issubclass(kind, Algorithm)
    for owner, attribute, name in (
        (kind, "update", "update"),
        (kind, "save", "save"),
        (Evaluator, "evaluate", "evaluate"),
        (TaskCache, "evaluator", "build"),
        (algorithms, "build", "build"),
    ):
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    return spent


def played(cells: Sequence[Cell], folder: Path, cache: TaskCache) -> float:
    """Wall-clock seconds of cells, one after the other in this process."""
    start = time.perf_counter()
    for cell in cells:
        job = {"job": "cell", "cell": cell.to_json(), "checkpoint_every": 60.0, "trackers": []}
        outcome = perform(job, folder, cache, lambda *a, **k: None, lambda: False)
        assert outcome.kind == "done", outcome
    return time.perf_counter() - start


def many(cells: int, workers: int) -> dict[str, float]:
    """Seconds that a suite of trivial cells takes from start to end, those that are not the cells' own work, and how memory grows.

    Their own work is measured on a twentieth of them, here, one at a time.
    """
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        (home / "prompts.txt").write_text("a b\nb c\n")
        model = Path(bakeoff.__file__).parent / "envs" / "tasks" / "exact" / "model"
        task = {"task": "custom", "model": str(model), "prompts": str(home / "prompts.txt"), "reward": "length"}
        suite = load_suite(
            {
                "name": "trivial",
                "tasks": {"tiny": {**task, "max_new_tokens": 1, "evaluation_fraction": 0.5}},
                "algorithms": {"reference": {"batch_size": 2}},
                "seeds": min(cells, 10_000),
                "budget": {"reward_queries": 2},
                "evaluate": {"completions": 2, "samples": 1},
            }
        )
        memory: list[tuple[int, float, float]] = []
        over = threading.Event()

        def look() -> None:
            while not over.wait(1.0):
                done = sum(1 for _ in (home / "out").glob("cells/*/*/seed-*/model"))
                memory.append((done, *rss()))

        watcher = threading.Thread(target=look)
        watcher.start()
        start = time.perf_counter()
        outcome = run_suite(suite, home / "out", workers=workers)
        wall = time.perf_counter() - start
        over.set()
        watcher.join()
        assert len(outcome.done) == cells, outcome
        torch.set_num_threads(1)
        first, *some = suite.cells()[: max(2, cells // 20)]
        cache = TaskCache()
        played([first], home / "again", cache)  # loads the model
        spent = watched("reference")
        alone = played(some, home / "again", cache)
        own = cells * sum(spent.values()) / len(some) / workers
    early = next((row for row in memory if row[0] >= cells / 10), memory[0])
    late = [row for row in memory if row[0] <= cells][-1]
    return {
        "cells": cells, "wall": wall, "own_work": own, "beyond_own_work": wall - own,
        "ms_per_cell": 1000 * wall / cells, "ms_harness_in_a_cell": 1000 * (alone - sum(spent.values())) / len(some),
        "parent_mb_early": early[1], "parent_mb_late": late[1],
        "workers_mb_early": early[2], "workers_mb_late": late[2],
    }  # fmt: skip


def rss() -> tuple[float, float]:
    """Resident memory of this process, and the largest of its children's, in MB."""
    import os

    def of(pid: str) -> float:
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        except OSError:
            return 0.0

    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return of("self"), max(map(of, children), default=0.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("share", "many"))
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--algorithm", default="ppo")
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    result = (
        share(options.updates, options.algorithm) if options.what == "share" else many(options.cells, options.workers)
    )
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))
