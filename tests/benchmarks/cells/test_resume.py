"""Killed at any moment, torn, out of disk: at most the work since the last checkpoint is lost, and no number changes."""

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bakeoff import registry
from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.benchmarks.cells.cell_runner import Stopped, run_cell
from bakeoff.benchmarks.cells.jobs import perform
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.cell_store import CellStore
from bakeoff.errors import RunFolderError


def families() -> dict[str, str]:
    """One algorithm for each source of training data: the first, by name, that runs as long as its budget if there is one."""
    found: dict[str, str] = {}
    kinds = {name: registry.algorithms.load(name) for name in registry.algorithms.names()}
    for name in sorted(kinds, key=lambda name: (kinds[name].finished is not Algorithm.finished, name)):
        found.setdefault(kinds[name].data_source.value, name)
    return found


FAMILIES = families()


def cell(algorithm: str, cache: TaskCache, updates: int = 10) -> Cell:
    settings = {"batch_size": 16, **registry.algorithms.load(algorithm).example_settings(cache.task("exact", {}))}
    # Who plays is measured by what it plays, who learns from given data by what it learns.
    plays = registry.algorithms.load(algorithm).data_source in (DataSource.NONE, DataSource.ONLINE, DataSource.REPLAY)
    meter, each = ("reward_queries", 16) if plays else ("trained_tokens", 1500)
    limits = {meter: each * updates}
    evaluate = {"every": {meter: 3 * each}, "completions": 8, "samples": 2}
    return Cell("exact", "exact", {}, "label", algorithm, settings, 3, limits, evaluate)


def content(folder: Path) -> dict[str, Any]:
    """Everything a cell leaves, but for the clock."""
    rows = [{**row, "seconds": None} for row in atomic_files.read_rows(folder / "metrics.jsonl")]
    assert (folder / "metrics.jsonl").read_bytes().count(b"\n") == len(rows)
    weights = {file.name: file.read_bytes() for file in sorted((folder / "model").glob("*.safetensors"))}
    config = atomic_files.read_json(folder / "config.json")
    return {"rows": rows, "samples": (folder / "samples.jsonl").read_bytes(), "config": config, "model": weights}


def in_a_child(action: Any) -> int:
    """Start an action in a forked process; its id."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def kill_at_random(this: Cell, folder: Path, cache: TaskCache, rng: random.Random, took: float, kills: int) -> int:
    """Kill the cell at random moments, ``kills`` times if it lives long enough; how often it was."""
    killed = 0
    while killed < kills:
        child = in_a_child(lambda: run_cell(this, folder, cache, checkpoint_every=0))
        time.sleep(rng.uniform(0, took))
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return killed
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
    return killed


def killed_and_equal(family: str, kills: int, cache: TaskCache, home: Path) -> None:
    this = cell(FAMILIES[family], cache)
    cache.evaluator(this)
    started = time.perf_counter()
    run_cell(this, home / "whole", cache, checkpoint_every=0)
    took, killed, number = time.perf_counter() - started, 0, 0
    whole = content(home / "whole")
    while killed < kills:
        number += 1
        folder, rng = home / str(number), random.Random(number)
        killed += kill_at_random(this, folder, cache, rng, took * 0.6, kills - killed)
        run_cell(this, folder, cache)
        assert content(folder) == whole
        shutil.rmtree(folder)
        assert number < 10 * kills


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_killed_twice_at_random(family: str, cache: TaskCache, tmp_path: Path) -> None:
    killed_and_equal(family, 2, cache, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_killed_at_twenty_random_moments(family: str, cache: TaskCache, tmp_path: Path) -> None:
    killed_and_equal(family, 20, cache, tmp_path)


ANY = FAMILIES["online"]


def interrupt(this: Cell, folder: Path, cache: TaskCache, updates: int) -> None:
    """Run some updates, a checkpoint after each."""
    asked: Iterator[bool] = iter([False] * (updates - 1) + [True])
    with pytest.raises(Stopped):
        run_cell(this, folder, cache, checkpoint_every=0, should_stop=lambda: next(asked))


@pytest.fixture(scope="module")
def whole(cache: TaskCache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    run_cell(cell(ANY, cache, 6), folder, cache)
    return content(folder)


@pytest.mark.parametrize(
    "damage",
    ["torn rows", "torn samples", "half a checkpoint", "left-over", "no state", "all checkpoints", "rows lost"],
)
def test_what_a_crash_can_leave(damage: str, whole: dict[str, Any], cache: TaskCache, tmp_path: Path) -> None:
    this = cell(ANY, cache, 6)
    interrupt(this, tmp_path, cache, 4)
    checkpoints = sorted((tmp_path / "checkpoint").iterdir())
    assert [path.name for path in checkpoints] == ["000000003", "000000004"]  # older ones are pruned
    match damage:
        case "torn rows":
            with (tmp_path / "metrics.jsonl").open("ab") as file:
                file.write(b'{"step": 5, "pha')
        case "torn samples":
            with (tmp_path / "samples.jsonl").open("ab") as file:
                file.write(b'{"step": 5, "prompt": "\xc3')
        case "half a checkpoint":
            os.truncate(checkpoints[1] / "tensors.safetensors", 1000)
        case "left-over":
            fresh = tmp_path / "checkpoint" / ".new"
            fresh.mkdir()
            (fresh / "state.json").write_text("{")
        case "no state":
            (checkpoints[1] / "state.json").unlink()
        case "all checkpoints":
            for path in checkpoints:
                (path / "checksums.json").write_bytes(b"")
        case "rows lost":
            content_before = (tmp_path / "metrics.jsonl").read_bytes()
            (tmp_path / "metrics.jsonl").write_bytes(content_before[: len(content_before) - 40])
    run_cell(this, tmp_path, cache)
    assert content(tmp_path) == whole


def full_disk_after(size: int, action: Any) -> int:
    """Run an action in a child that cannot write a file beyond so many bytes; its exit code."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        action()

    return os.waitstatus_to_exitcode(os.waitpid(in_a_child(limited), 0)[1])


@pytest.mark.parametrize("size", [200, 1500, 20_000])
def test_a_full_disk_loses_only_rows_after_the_checkpoint(
    size: int, whole: dict[str, Any], cache: TaskCache, tmp_path: Path
) -> None:
    """200 bytes stop the rows or the configuration, 1500 a later row, 20 kB the next checkpoint or the model."""
    this = cell(ANY, cache, 6)
    interrupt(this, tmp_path, cache, 3)
    before = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert full_disk_after(size, lambda: run_cell(this, tmp_path, cache, checkpoint_every=0)) == 1
    left = sorted(path.name for path in (tmp_path / "checkpoint").iterdir() if path.name[0] != ".")
    assert left == before  # nothing good was given up for what could not be written
    run_cell(this, tmp_path, cache)
    assert content(tmp_path) == whole


def test_a_full_disk_is_a_failed_cell_that_says_so(cache: TaskCache, tmp_path: Path) -> None:
    this = cell(ANY, cache, 3)
    job = {"job": "cell", "cell": this.to_json(), "checkpoint_every": 60.0, "trackers": []}

    def run() -> None:
        os._exit(0 if perform(job, tmp_path, TaskCache(), lambda *a, **k: None, lambda: False).kind == "failed" else 3)

    assert full_disk_after(20_000, run) == 0
    status = atomic_files.read_json(tmp_path / this.path / "status.json")
    assert status["status"] == "failed"
    assert "large" in status["error"] or "space" in status["error"]
    assert perform(job, tmp_path, cache, lambda *a, **k: None, lambda: False).kind == "done"  # with room again


def test_one_process_writes_a_cell_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bakeoff.benchmarks.storage.cell_store._LOCK_SECONDS", 0.1)
    store = CellStore(tmp_path)
    child = in_a_child(lambda: CellStore(tmp_path))  # a process that shares nothing with us but the file
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    with pytest.raises(RunFolderError, match="another process is writing this cell"):
        CellStore(tmp_path)
    store.close()
    CellStore(tmp_path).close()


def test_rows_are_json_whatever_is_in_them(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.append_samples([{"completion": "a\u2028b\nc\x00\ud800"}])
    store.close()
    (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert json.loads(line)["completion"] == "a\u2028b\nc\x00\ud800"


def test_checkpoints_of_two_seeds_swapped(whole: dict[str, Any], cache: TaskCache, tmp_path: Path) -> None:
    this = cell(ANY, cache, 6)
    other = replace(this, seed=4)
    for each in (this, other):
        interrupt(each, tmp_path / each.path, cache, 3)
    shutil.rmtree(tmp_path / this.path)
    os.rename(tmp_path / other.path, tmp_path / this.path)
    job = {"job": "cell", "cell": this.to_json(), "checkpoint_every": 60.0, "trackers": []}
    assert perform(job, tmp_path, cache, lambda *a, **k: None, lambda: False).kind == "done"
    assert content(tmp_path / this.path) == whole
    status = atomic_files.read_json(tmp_path / this.path / "status.json")
    assert status["note"] == "resumed at update 0: checkpoint 2 is another cell's"


def test_a_state_that_cannot_be_restored_fails_once(cache: TaskCache, tmp_path: Path) -> None:
    this = cell("ppo", cache, 4)
    run_cell(this, tmp_path / "whole", cache)
    whole = content(tmp_path / "whole")
    tmp_path = tmp_path / "resumed"
    interrupt(this, tmp_path, cache, 3)
    for path in (tmp_path / "checkpoint").iterdir():  # as another version may have written it, or a stranger
        state = json.loads((path / "state.json").read_text())
        state["state"]["algorithm"]["policy"] = {}
        (path / "state.json").write_text(json.dumps(state))
        sums = {name: value for name, value in atomic_files.checksums(path).items() if name != "checksums.json"}
        (path / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(
        RunFolderError, match=r"its checkpoint cannot be restored \(KeyError.*the next attempt starts it again"
    ):
        run_cell(this, tmp_path, cache)
    run_cell(this, tmp_path, cache)
    assert content(tmp_path) == whole
