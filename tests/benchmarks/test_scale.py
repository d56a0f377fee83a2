"""Bookkeeping stays small beside the work, and memory flat. benchmarks/speed/harness.py measures the same at full size."""

import gc
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bakeoff.benchmarks.cells.jobs import perform
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation.evaluator import Evaluator
from bakeoff.benchmarks.spec.cell import Cell


def resident() -> float:
    """Megabytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def trivial(seed: int) -> dict[str, Any]:
    evaluate = {"every": {"reward_queries": 2}, "completions": 2, "samples": 1}
    cell = Cell("t", "exact", {}, "reference", "reference", {"batch_size": 2}, seed, {"reward_queries": 2}, evaluate)
    return {"job": "cell", "cell": cell.to_json(), "checkpoint_every": 60.0, "trackers": []}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_is_flat_over_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bakeoff.envs.tasks.exact.enumeration import Enumeration

    monkeypatch.setattr(Enumeration, "objective", lambda self, logprobs: {})  # the cells' own work, a tenth of a second
    monkeypatch.setattr(Enumeration, "sequence_logprobs", lambda self, model: None)
    cache = TaskCache()

    def run(seeds: range) -> float:
        for seed in seeds:
            assert perform(trivial(seed), tmp_path, cache, lambda *a, **k: None, lambda: False).kind == "done"
        gc.collect()
        return resident()

    early = run(range(20))
    late = run(range(20, 80))
    assert late - early < 6  # 0.1 MB per cell would be 200 MB over 2,000


@pytest.mark.slow
def test_the_harness_takes_little_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processor time, since others share this machine."""
    from bakeoff import registry
    from bakeoff.algos.core import build as algorithms

    name = "ppo"
    evaluate = {"every": {"reward_queries": 640}, "completions": 256, "samples": 8}
    cell = Cell("reviews", "reviews", {}, "label", name, {}, 0, {"reward_queries": 1280}, evaluate)
    spent = [0.0]

    def timed(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.process_time() - start

        return run

    kind = registry.algorithms.load(name)
    monkeypatch.setattr(kind, "update", timed(kind.update))
    monkeypatch.setattr(Evaluator, "evaluate", timed(Evaluator.evaluate))
    monkeypatch.setattr(TaskCache, "evaluator", timed(TaskCache.evaluator))
    monkeypatch.setattr(algorithms, "build", timed(algorithms.build))
    job = {"job": "cell", "cell": cell.to_json(), "checkpoint_every": 60.0, "trackers": []}
    start = time.process_time()
    assert perform(job, tmp_path, TaskCache(), lambda *a, **k: None, lambda: False).kind == "done"
    total = time.process_time() - start
    assert (total - spent[0]) / total < 0.02
