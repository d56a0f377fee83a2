"""What an algorithm writes on its way: scored by the task's judges, kept crash-safely, and nothing where nothing is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.benchmarks.cells.cell_runner import Stopped, run_cell
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation.evaluator import Evaluator
from bakeoff.benchmarks.evaluation.score_records import with_scores
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.cell_store import CellStore
from bakeoff.envs.rewards.resolve import contains, length
from bakeoff.envs.tasks.base import Measure, Task, make_task
from bakeoff.envs.tasks.prompts import PromptSet


class Scribe(Algorithm):
    """Plays, learns nothing, and writes one row per update."""

    data_source = DataSource.ONLINE

    def update(self) -> Mapping[str, float]:
        self.envs.reset()
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        self.played = self.envs.play(completions)
        return {"reward": float(self.played.rewards_B.mean())}

    def records(self) -> list[dict[str, Any]]:
        index = int(self.played.completions.prompts.indices_B[0])
        return [{"prompt": self.played.prompts[0], "prompt_index": index, "texts": {"answer": self.played.texts[0]}}]


@pytest.fixture(scope="module")
def reviews() -> Task:
    task = make_task("reviews")
    columns = {split: {"some": tuple(i % 16 == 0 for i in range(64))} for split in ("train", "evaluation")}
    prompts = PromptSet(task.prompts.train, task.prompts.evaluation, columns)
    measures = {"tokens": Measure(length()), "good": Measure(contains("good"), "some", True)}
    return dataclasses.replace(task, prompts=prompts, measures=measures)


def test_rows_are_scored_by_whom_they_concern(reviews: Task) -> None:
    rows = [
        {"prompt": "movie: it is", "prompt_index": 16, "texts": {"a": " good.", "b": " bad."}},
        {"prompt": "movie: it is", "prompt_index": 2, "texts": {"a": " good."}, "kind": "x"},
        {"note": "no texts"},
    ]
    scored = with_scores(rows, reviews)
    assert scored[0]["scores"]["good"] == {"a": 1.0, "b": 0.0}
    assert scored[0]["scores"]["proxy"]["a"] == pytest.approx(0.4404, abs=1e-3)  # VADER on "good"
    assert scored[0]["scores"]["tokens"] == {"a": 3.0, "b": 3.0}  # the end is one of them
    assert set(scored[1]["scores"]) == {"gold", "proxy", "tokens"}
    assert scored[2] == {"note": "no texts"}
    assert "scores" not in rows[0]


def test_measures_are_evaluated_on_whom_they_concern(reviews: Task) -> None:
    found = Evaluator(reviews, 8, 4, 1, 2).evaluate(_policy(reviews))
    assert {"measure_tokens", "measure_tokens_se", "measure_good", "measure_good_se"} <= set(found.metrics)
    assert found.metrics["measure_tokens"] == pytest.approx(found.metrics["length"])
    assert [set(row["measures"]) for row in found.samples] == [
        {"tokens", "good"},
        {"tokens"},
    ] * 2  # of prompts 0, 8, 16, 24


def _policy(task: Task) -> Any:
    from bakeoff.algos.core.build import build
    from bakeoff.envs.meter import Budget

    return build(Scribe, {}, task, Budget(reward_queries=1), 0).contestant()


@pytest.fixture
def scribe(monkeypatch: pytest.MonkeyPatch) -> Cell:
    from bakeoff.algos.core import build

    make = build.build
    monkeypatch.setattr(build, "build", lambda name, *rest: make(Scribe if name == "scribe" else name, *rest))
    evaluate = {"every": {"reward_queries": 32}, "completions": 4, "samples": 1}
    return Cell("exact", "exact", {}, "scribe", "scribe", {"batch_size": 16}, 0, {"reward_queries": 96}, evaluate)


def test_a_run_that_goes_on_writes_each_row_once(scribe: Cell, cache: TaskCache, tmp_path: Path) -> None:
    run_cell(scribe, tmp_path / "whole", cache)
    whole = (tmp_path / "whole" / "records.jsonl").read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]["scores"]) == {"proxy"}

    asked = iter([False, True])
    with pytest.raises(Stopped):
        run_cell(scribe, tmp_path / "cut", cache, should_stop=lambda: next(asked))
    path = tmp_path / "cut" / "records.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 3, "torn')
    run_cell(scribe, tmp_path / "cut", cache)
    assert path.read_bytes() == whole


def test_a_file_younger_than_the_checkpoint_is_emptied(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save_checkpoint(1, {"a": 1})
    store.append_records([{"step": 2}])
    store.close()
    store = CellStore(tmp_path)
    assert store.resume() == {"a": 1}
    assert (tmp_path / "records.jsonl").read_bytes() == b""
    store.close()


def test_who_writes_nothing_has_no_file(cache: TaskCache, tmp_path: Path) -> None:
    evaluate = {"every": {"reward_queries": 32}, "completions": 4, "samples": 1}
    cell = Cell("exact", "exact", {}, "ppo", "ppo", {"batch_size": 16}, 0, {"reward_queries": 16}, evaluate)
    run_cell(cell, tmp_path, cache)
    assert not (tmp_path / "records.jsonl").exists()
    assert list(atomic_files.read_rows(tmp_path / "metrics.jsonl"))


def test_interrupted_self_critique_ends_with_the_same_chains(cache: TaskCache, tmp_path: Path) -> None:
    from bakeoff.algos.constitutional.algorithm import Constitutional

    settings = {**Constitutional.example_settings(cache.task("exact", {})), "batch_size": 32, "step_size": 64}
    evaluate = {"every": {"generated_tokens": 10**6}, "completions": 4, "samples": 1}
    cell = Cell("exact", "exact", {}, "x", "constitutional", settings, 0, {"generated_tokens": 10**6}, evaluate)
    run_cell(cell, tmp_path / "whole", cache)
    for updates in (1, 3, 6, 8):  # within collecting and learning of either stage
        counted = iter(range(1, 100))
        folder = tmp_path / str(updates)
        with pytest.raises(Stopped):
            run_cell(cell, folder, cache, should_stop=lambda counted=counted, end=updates: next(counted) == end)
        run_cell(cell, folder, cache)
        for name in ("records.jsonl", "samples.jsonl"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "records.jsonl").read_bytes().splitlines()]
    assert {row["kind"] for row in rows} == {"chain", "choice"}
    final = list(atomic_files.read_rows(tmp_path / "whole" / "metrics.jsonl"))[-1]
    assert final["reward_queries"] == 0
