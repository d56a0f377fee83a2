import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bakeoff.algos.ppo import PPO
from bakeoff.benchmarks.cells.cell_runner import Progress, Stopped, run_cell
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.cell_store import Status
from bakeoff.errors import BakeoffError, ConfigError


def cell(algorithm: str = "ppo", budget: int = 160, **settings: Any) -> Cell:
    every = {"reward_queries": 48}
    return Cell(
        task="exact",
        task_name="exact",
        task_settings={},
        label="label",
        algorithm=algorithm,
        settings={"batch_size": 16, **settings},
        seed=3,
        budget={"reward_queries": budget},
        evaluate={"every": every, "completions": 16, "samples": 2},
    )


def test_the_last_batch_is_cut_or_refused(cache: TaskCache, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budget\.reward_queries is 7, and an update needs 8; raise it"):
        run_cell(cell("grpo", 7), tmp_path / "none", cache)
    run_cell(cell("grpo", 30), tmp_path / "cut", cache)
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["reward_queries"] for row in rows if row["phase"] == "train"] == [16, 24]


def content(folder: Path) -> dict[str, Any]:
    """Everything a cell leaves, but for the clock."""
    rows = [{**row, "seconds": None} for row in atomic_files.read_rows(folder / "metrics.jsonl")]
    lines = (folder / "metrics.jsonl").read_bytes().count(b"\n")
    assert lines == len(rows)
    return {
        "metrics": rows,
        "samples": (folder / "samples.jsonl").read_bytes(),
        "config": atomic_files.read_json(folder / "config.json"),
        "model": {file.name: file.read_bytes() for file in sorted((folder / "model").glob("*.safetensors"))},
    }


@pytest.fixture(scope="module")
def uninterrupted(cache: TaskCache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    run_cell(cell(), folder, cache)
    return content(folder)


def test_rows(uninterrupted: dict[str, Any]) -> None:
    rows = uninterrupted["metrics"]
    # 10 updates of 16 queries; evaluations at 0, past 48, 96, 144, and at the end
    evaluations = [(row["step"], row["reward_queries"]) for row in rows if row["phase"] == "eval"]
    assert evaluations == [(0, 0), (3, 48), (6, 96), (9, 144), (10, 160)]
    assert [row["step"] for row in rows if row["phase"] == "train"] == list(range(1, 11))
    meters = ["generated_tokens", "reward_queries", "trained_tokens", "seconds"]
    assert list(rows[0]) == ["step", "phase", *meters, "metrics"]
    samples = [json.loads(line) for line in uninterrupted["samples"].splitlines()]
    assert [sample["step"] for sample in samples] == [0, 0, 3, 3, 6, 6, 9, 9, 10, 10]
    config = uninterrupted["config"]
    assert config["settings"]["batch_size"] == 16
    assert config["settings"]["epochs"] == 4
    assert config["data_source"] == "online"
    assert config["notes"] == []


def test_same_seed_same_numbers(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    run_cell(cell(), tmp_path, TaskCache(), checkpoint_every=0)
    assert content(tmp_path) == uninterrupted


def test_stopping_and_going_on_at_every_update(uninterrupted: dict[str, Any], cache: TaskCache, tmp_path: Path) -> None:
    attempts = 0
    while True:
        attempts += 1
        try:
            run_cell(cell(), tmp_path, cache, checkpoint_every=1000, should_stop=lambda: True)
            break
        except Stopped:
            assert len(list((tmp_path / "checkpoint").iterdir())) <= 2
    assert attempts == 11
    assert content(tmp_path) == uninterrupted


def kill_and_go_on(folder: Path, cache: TaskCache, rng: random.Random, this: Cell, longest: float) -> int:
    """Run a cell in forked processes, each killed at a random moment, until one gets through; how many were killed."""
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                run_cell(this, folder, cache, checkpoint_every=0)
                os._exit(0)
            finally:
                os._exit(1)
        # Ever longer, since a kill before the first checkpoint throws all away.
        time.sleep(rng.uniform(0, longest * (1 + kills / 4)))
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        else:
            return kills


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments(seed: int, uninterrupted: dict[str, Any], cache: TaskCache, tmp_path: Path) -> None:
    cache.evaluator(cell())
    kills = kill_and_go_on(tmp_path, cache, random.Random(seed), cell(), 0.5)
    run_cell(cell(), tmp_path, cache)
    assert kills > 0
    assert content(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "longest"), [("ppo", 1.0), ("best_of_n", 0.15)])
def test_killed_twenty_times(algorithm: str, longest: float, cache: TaskCache, tmp_path: Path) -> None:
    this = cell(algorithm, 320)
    run_cell(this, tmp_path / "whole", cache)
    kills = attempt = 0
    while kills < 20:
        attempt += 1
        folder = tmp_path / str(attempt)
        kills += kill_and_go_on(folder, cache, random.Random(attempt), this, longest)
        run_cell(this, folder, cache)
        assert content(folder) == content(tmp_path / "whole")


@pytest.mark.slow
def test_every_algorithm_resumes_exactly(cache: TaskCache, tmp_path: Path) -> None:
    from bakeoff import registry

    for name in registry.algorithms.names():
        kind = registry.algorithms.load(name)
        if kind.unavailable() or not kind.resumes_exactly:
            continue
        settings = {"batch_size": 16, **kind.example_settings(cache.task("exact", {}))}
        this = replace(cell(name, 48), settings=settings)
        run_cell(this, tmp_path / name / "whole", cache)
        folder, stops = tmp_path / name / "stopped", 0
        while True:
            try:
                run_cell(this, folder, cache, should_stop=lambda: True)
                break
            except Stopped:
                stops += 1
        assert content(folder) == content(tmp_path / name / "whole"), name


def test_a_cell_that_cannot_resume_starts_again(
    cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bakeoff.algos.ppo.PPO.resumes_exactly", False)
    run_cell(cell(), tmp_path / "whole", cache)
    with pytest.raises(Stopped):
        run_cell(cell(), tmp_path / "stopped", cache, should_stop=lambda: True)
    assert not (tmp_path / "stopped" / "checkpoint").exists()
    run_cell(cell(), tmp_path / "stopped", cache)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_a_finished_contestant_is_evaluated_once(cache: TaskCache, tmp_path: Path) -> None:
    run_cell(cell("reference"), tmp_path, cache)
    assert [(row["step"], row["phase"]) for row in atomic_files.read_rows(tmp_path / "metrics.jsonl")] == [(0, "eval")]


def test_a_contestant_that_is_more_than_its_model_says_so(cache: TaskCache, tmp_path: Path) -> None:
    run_cell(cell("best_of_n", n=4), tmp_path, cache)
    assert atomic_files.read_json(tmp_path / "config.json")["notes"] == ["answers with more than the model it saves"]
    last = list(atomic_files.read_rows(tmp_path / "metrics.jsonl"))[-1]
    assert last["reward_queries"] == 16  # evaluation's own queries are not in it
    assert last["metrics"]["queries_per_answer"] == 4


def test_progress_is_told(cache: TaskCache, tmp_path: Path) -> None:
    told: list[Progress] = []
    run_cell(cell(budget=64), tmp_path, cache, report=told.append)
    assert [progress.share for progress in told] == [0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert "normalized_score" in told[-1].metrics


def test_an_idle_algorithm_is_stopped(
    plugin: Path, cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bakeoff.benchmarks.cells.cell_runner._IDLE_UPDATES", 50)
    with pytest.raises(BakeoffError, match="50 updates in a row spent nothing, yet it is not finished"):
        run_cell(cell("idle"), tmp_path, cache)
    row = list(atomic_files.read_rows(tmp_path / "metrics.jsonl"))[-1]
    assert row["metrics"] == {"x": None}  # JSON has no NaN


def test_a_budget_of_seconds_ends(cache: TaskCache, tmp_path: Path) -> None:
    run_cell(replace(cell("ppo"), budget={"seconds": 0.3}), tmp_path, cache)
    last = list(atomic_files.read_rows(tmp_path / "metrics.jsonl"))[-1]
    assert last["phase"] == "eval"
    assert last["seconds"] >= 0.3


def test_status_defaults_to_pending(tmp_path: Path) -> None:
    assert Status.read(tmp_path).status == "pending"


def test_a_kl_budget_ends_a_cell(uninterrupted: dict[str, Any], cache: TaskCache, tmp_path: Path) -> None:
    kl = {row["step"]: row["metrics"]["kl"] for row in uninterrupted["metrics"] if row["phase"] == "train"}
    limit = max(kl.values()) / 2
    first = min(step for step, value in kl.items() if value >= limit)
    run_cell(cell(kl_budget=limit), tmp_path / "whole", cache)
    rows = content(tmp_path / "whole")["metrics"]
    assert max(row["step"] for row in rows) == first
    assert rows[-1]["phase"] == "eval"  # the policy that went too far is what is judged

    # Interrupted after the update that reached it, the cell is over when it resumes.
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == first

    with pytest.raises(Stopped):
        run_cell(cell(kl_budget=limit), tmp_path / "stopped", cache, should_stop=stop)
    run_cell(cell(kl_budget=limit), tmp_path / "stopped", cache)
    assert content(tmp_path / "stopped")["metrics"] == rows


def test_evaluations_enforce_the_kl_budget(cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = PPO.update
    monkeypatch.setattr(PPO, "update", lambda self: {k: v for k, v in update(self).items() if k != "kl"})
    run_cell(cell(kl_budget=1e-6), tmp_path, cache)
    assert max(row["step"] for row in content(tmp_path)["metrics"]) == 3  # the first evaluation that is due
