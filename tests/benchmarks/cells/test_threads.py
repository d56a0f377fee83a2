"""With any fixed number of threads, a cell's numbers are the same each time, also where it was stopped and resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bakeoff import registry
from bakeoff.algos.core.algorithm import DataSource
from bakeoff.benchmarks.cells.cell_runner import Stopped, run_cell
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage import atomic_files


def cell(algorithm: str, cache: TaskCache, task: str = "reviews") -> Cell:
    kind = registry.algorithms.load(algorithm)
    settings = {"batch_size": 32, **kind.example_settings(cache.task(task, {}))}
    plays = kind.data_source in (DataSource.NONE, DataSource.ONLINE, DataSource.REPLAY)
    meter, each = ("reward_queries", 32) if plays else ("trained_tokens", 4000)
    evaluate = {"every": {meter: 2 * each}, "completions": 8, "samples": 1}
    return Cell(task, task, {}, "label", algorithm, settings, 3, {meter: 4 * each}, evaluate)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "seconds": None} for row in atomic_files.read_rows(folder / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("algorithm", registry.algorithms.names())
def test_two_threads_give_equal_numbers(algorithm: str, cache: TaskCache, tmp_path: Path) -> None:
    this = cell(algorithm, cache)
    for name in ("one", "two"):
        run_cell(this, tmp_path / name, cache)
    for _ in range(3):
        try:
            run_cell(this, tmp_path / "three", cache, should_stop=lambda: True)
            break
        except Stopped:
            continue
    run_cell(this, tmp_path / "three", cache)
    whole = rows(tmp_path / "one")
    assert rows(tmp_path / "two") == whole
    assert rows(tmp_path / "three") == whole


def test_a_resumed_cell_keeps_its_number_of_threads(
    cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [4]
    monkeypatch.setattr("torch.get_num_threads", lambda: now[0])
    monkeypatch.setattr("torch.set_num_threads", lambda count: now.__setitem__(0, count))
    this = replace(cell("reinforce", cache, "exact"), budget={"reward_queries": 64})
    with pytest.raises(Stopped):
        run_cell(this, tmp_path, cache, should_stop=lambda: True)
    assert atomic_files.read_json(tmp_path / "config.json")["threads"] == 4
    now[0] = 2
    run_cell(this, tmp_path, cache)
    assert now == [4]
    assert atomic_files.read_json(tmp_path / "config.json")["threads"] == 4
    now[0] = 2
    run_cell(this, tmp_path / "new", cache)  # a new one takes what it is given
    assert atomic_files.read_json(tmp_path / "new" / "config.json")["threads"] == 2
