"""A cell that runs as several processes: the numbers of one, a process that dies is noticed, and each reward is called once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bakeoff
from bakeoff import distributed, registry
from bakeoff.benchmarks.cells.cell_processes import worker_ranks
from bakeoff.benchmarks.cells.jobs import Outcome, perform
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.run import threads_of
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.spec.reader import SuiteError
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.errors import UserError

SUITE: dict[str, Any] = {
    "name": "several",
    "tasks": ["exact"],
    "algorithms": {"reference": {}},
    "seeds": 1,
    "budget": {"reward_queries": 48},
    "accelerate": {"processes": 2},
}


@pytest.fixture(scope="module")
def cache() -> TaskCache:
    return TaskCache()


def cell(algorithm: str, task: str = "exact", **settings: Any) -> Cell:
    settings = {"batch_size": 16, **settings}
    evaluate = {"every": {"reward_queries": 32}, "completions": 33, "samples": 3}
    return Cell(task, task, {}, "label", algorithm, settings, 3, {"reward_queries": 48}, evaluate)


def play(this: Cell, folder: Path, processes: int, **job: Any) -> Outcome:
    """Run a cell in this process and, where there are several, its further processes."""
    message = {"job": "cell", "cell": this.to_json(), "checkpoint_every": 60.0, "trackers": [], "processes": processes}
    folder.mkdir(exist_ok=True)
    return perform({**message, **job}, folder, TaskCache(), lambda *a, **k: None, lambda: False)


def rows(this: Cell, folder: Path) -> list[dict[str, Any]]:
    return list(atomic_files.read_rows(folder / this.path / "metrics.jsonl"))


def assert_close(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    assert [(row["step"], row["phase"], row["reward_queries"]) for row in one] == [
        (row["step"], row["phase"], row["reward_queries"]) for row in two
    ]
    for mine, other in zip(one, two, strict=True):
        assert mine["generated_tokens"] == other["generated_tokens"]
        assert mine["trained_tokens"] == other["trained_tokens"]
        # What is judged is equal up to rounding; what an update reports is averaged over
        # parts of the batch, other ones here, and a ratio at the clip's edge, or a margin of 0, may fall on either side.
        tolerance = 1e-4 if mine["phase"] == "eval" else 5e-2
        for row in (mine, other):
            row["metrics"].pop("accuracy", None)
        assert mine["metrics"] == pytest.approx(other["metrics"], rel=tolerance, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    "this",
    [
        cell("ppo"),
        cell("grpo", "reviews", trainable="top_layers", group_size=4, micro_batch_size=3),
        cell("online_dpo", trainable="lora"),
    ],
    ids=lambda this: this.algorithm,
)
def test_two_processes_measure_what_one_does(this: Cell, tmp_path: Path) -> None:
    for processes in (1, 2):
        outcome = play(this, tmp_path / str(processes), processes)
        assert outcome.kind == "done", outcome
    alone, shared = (rows(this, tmp_path / count) for count in "12")
    assert len(alone) > 3
    assert_close(alone, shared)
    assert distributed.is_first()
    assert not distributed.should_shard(100)  # and this process is alone again
    assert "RANK" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in registry.algorithms.names() if not n.startswith(("trl_", "sb3_"))])
def test_every_algorithm_runs_as_two(name: str, tmp_path: Path, cache: TaskCache) -> None:
    kind = registry.algorithms.load(name)
    assert kind.runs_as_several
    this = cell(name, **kind.example_settings(cache.task("exact", {})))
    this = Cell.from_json({**this.to_json(), "budget": {"reward_queries": 32, "trained_tokens": 3000}})
    for processes in (1, 2):
        outcome = play(this, tmp_path / str(processes), processes)
        assert outcome.kind == "done", outcome
    assert_close(*(rows(this, tmp_path / count) for count in "12"))


@pytest.mark.slow
def test_two_processes_go_on_from_the_first_ones_checkpoint(tmp_path: Path) -> None:
    this = cell("grpo")
    assert play(this, tmp_path / "whole", 2).kind == "done"
    message = {"job": "cell", "cell": this.to_json(), "checkpoint_every": 60.0, "trackers": [], "processes": 2}
    asked = iter([False, True])
    (tmp_path / "parts").mkdir()
    stopped = perform(message, tmp_path / "parts", TaskCache(), lambda *a, **k: None, lambda: next(asked))
    assert stopped.kind == "stopped"
    assert play(this, tmp_path / "parts", 2).kind == "done"
    whole, parts = ([{**row, "seconds": 0} for row in rows(this, tmp_path / name)] for name in ("whole", "parts"))
    assert whole == parts


PLUGIN = '''
import os
import pathlib

import torch

from bakeoff.algos.grpo import GRPO

asked = pathlib.Path(os.environ["BAKEOFF_TEST_ASKED"])


def counted(prompts, completions, **columns):
    """One line for each call, from any process."""
    with asked.open("a") as file:
        file.write(f"{os.environ.get('RANK')} {len(completions)}\\n")
    return [float(len(text)) for text in completions]


class Apart(GRPO):
    """Draws from a source that differs from process to process."""

    def update(self):
        metrics = super().update()
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter += 1e-3 * (os.getpid() % 1000)
        return metrics


class Mortal(GRPO):
    """Its second process dies in its first life."""

    def update(self):
        if os.environ.get("RANK") == "1" and not asked.with_suffix(".dead").exists():
            asked.with_suffix(".dead").touch()
            os.kill(os.getpid(), 9)
        return super().update()


bakeoff_plugin = {
    "rewards": {"counted": lambda: counted},
    "algorithms": {"apart": Apart, "mortal": Mortal},
}
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAKEOFF_TEST_ASKED", str(tmp_path / "asked.txt"))
    path = tmp_path / "several.py"
    path.write_text(PLUGIN)
    return path


@pytest.mark.slow
def test_one_process_calls_rewards_and_dead_ones_are_noticed(plugin: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a b\nb c\nc d\na c\n")
    model = Path(bakeoff.__file__).parent / "envs" / "tasks" / "exact" / "model"
    task = {"task": "custom", "model": str(model), "prompts": str(prompts), "reward": "counted", "max_new_tokens": 4}
    suite = {
        **SUITE,
        "tasks": {"tiny": {**task, "evaluation_fraction": 0.5}},
        "algorithms": {"mortal": {"batch_size": 16}, "apart": {"batch_size": 16}},
        "evaluate": {"completions": 8},
        "retries": 1,
    }
    bakeoff.run(suite, out=tmp_path / "run", plugins=[plugin], workers=1, progress=False)
    home = tmp_path / "run" / "cells" / "tiny"
    mortal, apart = (atomic_files.read_json(home / name / "seed-0" / "status.json") for name in suite["algorithms"])
    assert (mortal["status"], mortal["attempts"]) == ("done", 2)
    assert (apart["status"], apart["attempts"]) == ("failed", 2)
    assert "the weights of this cell's processes differ" in apart["error"]
    asked = [line.split() for line in (tmp_path / "asked.txt").read_text().splitlines()]
    assert {rank for rank, _ in asked} == {"0"}
    assert [count for _, count in asked[:5]] == ["8", "8"] * 2 + [
        "16"
    ]  # two lives: the reference, the untrained policy; an update


@pytest.mark.slow
def test_further_processes_end_with_their_parent(tmp_path: Path) -> None:
    script = f"""
import json, os, time
from pathlib import Path
from bakeoff.benchmarks.cells.cell_processes import worker_ranks
from bakeoff.benchmarks.spec.cell import Cell
job = {{"job": "cell", "cell": json.loads({json.dumps(json.dumps(cell("ppo").to_json()))}), "processes": 2}}
with worker_ranks(job, Path({str(tmp_path)!r})):
    children = Path(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read_text()
    print(children, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        (further,) = map(int, first.stdout.readline().split())
        first.kill()
    deadline = time.monotonic() + 30
    while alive(further) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(further)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def test_devices_that_cannot_be_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(device: str) -> str:
        this = {**cell("ppo").to_json(), "task_settings": {"device": device}}
        with pytest.raises(UserError) as refused, worker_ranks({"cell": this, "processes": 2}, tmp_path):
            pass
        return str(refused.value)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert asked("mps") == 'accelerate.processes is 2 and device "mps"; use device: cuda, or cpu'
    assert asked("cuda:1").endswith("use device: cuda, or cpu")
    assert asked("cuda") == "accelerate.processes is 2, one GPU for each, and 1 can be seen here"


def test_libraries_with_processes_of_their_own_are_refused() -> None:
    with pytest.raises(SuiteError) as refused:
        load_suite({**SUITE, "algorithms": {"sb3_ppo": {}, "ppo": {}}})
    assert 'algorithm "sb3_ppo" runs as one process; leave out accelerate.processes, or the algorithm' in str(
        refused.value
    )
    load_suite({**SUITE, "algorithms": {"sb3_ppo": {}}, "accelerate": {"processes": 1}})
    for wrong in (0, 1.5, "two", True, float("inf"), [2]):
        with pytest.raises(SuiteError, match="accelerate"):
            load_suite({**SUITE, "accelerate": {"processes": wrong}})


def test_cores_are_shared_out_over_cells_and_their_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bakeoff.benchmarks.run.cores", lambda: 8)
    assert threads_of("local", load_suite(SUITE), None) == 2  # four cells at once, two processes each
    assert threads_of("local", load_suite(SUITE), 1) == 8
    assert load_suite(load_suite(SUITE).document()).accelerate.processes == 2
    assert "accelerate" not in load_suite({**SUITE, "accelerate": None}).document()


def test_alone_nothing_is_shared_out() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.arange(3.0)
    distributed.all_reduce_gradients([weight])
    assert weight.grad.tolist() == [0, 1, 2]
    assert not distributed.should_shard(64)
    assert distributed.shard(5) == range(5)
    assert distributed.broadcast("a") == distributed.on_main(lambda: "a") == "a"


def test_parts_hold_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed._team, "size", 3)
    for count in (3, 4, 5, 64):
        parts = [distributed.shard(count, rank) for rank in range(3)]
        assert [row for part in parts for row in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert not distributed.should_shard(2)
    with distributed.apart():
        assert not distributed.should_shard(64)
    assert distributed.should_shard(64)
