import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bakeoff.benchmarks import export as exporting
from bakeoff.benchmarks import trackers
from bakeoff.benchmarks.cells.cell_runner import Stopped, run_cell
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.cell_store import Status
from bakeoff.cli import main
from bakeoff.errors import UserError
from bakeoff.reports import Results

CELL = Cell(
    "exact", "exact", {}, "ppo", "ppo", {"batch_size": 16}, 0, {"reward_queries": 48},
    {"every": {"reward_queries": 32}, "completions": 8, "samples": 1},
)  # fmt: skip
TOLD: list[tuple[str, int, dict[str, float]]] = []


class Recorder:
    """A tracker of one's own."""

    def __init__(self, folder: Path, cell: trackers.TrackedCell, step: int) -> None:
        import random

        random.random()
        TOLD.append((f"start {cell.path} {cell.config['settings']['batch_size']}", step, {}))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        TOLD.append(("log", step, dict(values)))

    def close(self) -> None:
        TOLD.append(("close", 0, {}))


class Raises(Recorder):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        raise RuntimeError("no connection")


class Exits(Recorder):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        raise SystemExit(3)


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> str:
    TOLD.clear()
    monkeypatch.setitem(trackers.BUILT_IN, "mine", f"{__name__}:Recorder")
    monkeypatch.setattr(
        trackers, "tracker_class", lambda name: {"mine": Recorder, "raises": Raises, "exits": Exits}[name]
    )
    return "mine"


def make_run(folder: Path, cache: TaskCache, **options: Any) -> Path:
    suite = {"name": "tracked"}
    entry = {"task": "exact", "label": "ppo", "algorithm": "ppo", "seed": 0, "path": CELL.path}
    atomic_files.write_json(folder / "manifest.json", {"schema": 2, "suite": suite, "cells": [entry]})
    run_cell(CELL, folder / CELL.path, cache, **options)
    Status("done").write(folder / CELL.path)
    return folder


def test_a_tracker_is_told_every_row_and_changes_none(mine: str, cache: TaskCache, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    make_run(tmp_path / "a", cache)
    make_run(tmp_path / "b", cache, trackers=[mine, "raises", "exits"])
    rows = [list(atomic_files.read_rows(tmp_path / name / CELL.path / "metrics.jsonl")) for name in "ab"]
    assert [{**row, "seconds": 0} for row in rows[0]] == [{**row, "seconds": 0} for row in rows[1]]
    logged = [(step, values) for kind, step, values in TOLD if kind == "log"]
    assert [step for step, _ in logged] == [row["step"] for row in rows[1]]
    for (_, values), row in zip(logged, rows[1], strict=True):
        assert values["meter/reward_queries"] == row["reward_queries"]
        finite = {f"{row['phase']}/{name}": value for name, value in row["metrics"].items() if value is not None}
        assert finite.items() <= values.items()
    assert TOLD[0][0] == "start exact/ppo/seed-0 16"
    assert TOLD[-1][0] == "close"


def test_going_on_tells_from_where(mine: str, cache: TaskCache, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make_run(tmp_path, cache, trackers=[mine], should_stop=lambda: True)
    make_run(tmp_path, cache, trackers=[mine])
    assert [step for kind, step, _ in TOLD if kind.startswith("start")] == [0, 1]
    assert [step for kind, step, _ in TOLD if kind == "log"] == [0, 1, 2, 2, 3, 3]


def read_events(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_live_and_afterwards(cache: TaskCache, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    with pytest.raises(Stopped):
        make_run(tmp_path, cache, trackers=["tensorboard"], should_stop=lambda: True)
    make_run(tmp_path, cache, trackers=["tensorboard"])
    assert main(["export", str(tmp_path), "--to", "tensorboard"]) == 0
    rows = [row for row in atomic_files.read_rows(tmp_path / CELL.path / "metrics.jsonl") if row["phase"] == "eval"]
    expected = [(row["step"], pytest.approx(row["metrics"]["proxy"], rel=1e-6)) for row in rows]
    for home in ("trackers/tensorboard", "export/tensorboard"):
        events = read_events(tmp_path / home / "exact" / "ppo" / "seed-0")
        assert [(event.step, event.value) for event in events.Scalars("eval/proxy")] == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # W&B's own
def test_wandb_offline(cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    make_run(tmp_path, cache, trackers=["wandb"])
    files_of = list((tmp_path / "trackers" / "wandb" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files_of) == 1
    assert b"eval/proxy" in files_of[0].read_bytes()
    assert (
        not (tmp_path / CELL.path / "log.txt").exists()
        or "left out" not in (tmp_path / CELL.path / "log.txt").read_text()
    )
    assert exporting.export(tmp_path, "wandb", tmp_path / "w").is_dir()
    assert list((tmp_path / "w" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_tables(cache: TaskCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, cache)
    assert main(["export", str(tmp_path), "--to", "csv"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == tmp_path / "export" / "csv"
    frame = pd.read_csv(folder / "metrics.csv")
    final = frame[(frame["phase"] == "eval") & (frame["metric"] == "proxy")].iloc[-1]
    row = list(atomic_files.read_rows(tmp_path / CELL.path / "metrics.jsonl"))[-1]
    assert (final["label"], final["step"], final["value"]) == ("ppo", 3, row["metrics"]["proxy"])
    assert len(pd.read_csv(folder / "samples.csv")) == 3
    assert list(pd.read_csv(folder / "cells.csv")["status"]) == ["done"]
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    out = exporting.export(tmp_path, "parquet", tmp_path / "p")
    again = pd.read_parquet(out / "metrics.parquet")
    assert len(again) == len(frame)
    assert sorted(path.name for path in out.iterdir()) == ["cells.parquet", "metrics.parquet", "samples.parquet"]


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--to", "excel"]) == 2
    assert 'no export "excel"' in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--to", "csv"]) == 2
    assert "no manifest.json" in capsys.readouterr().err
    with pytest.raises(UserError, match='no tracker "wandbb"; did you mean "wandb"'):
        trackers.check("wandbb")
    with pytest.raises(UserError, match='tracker "os:nothing" cannot be loaded: AttributeError'):
        trackers.check("os:nothing")
    assert os.environ.get("WANDB_MODE") != "online"


def test_a_module_that_breaks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_tracker.py").write_text("1 / 0\n")
    (tmp_path / "unready_tracker.py").write_text(
        "class T:\n    @staticmethod\n    def check():\n        raise RuntimeError('no key')\n"
    )
    with pytest.raises(UserError, match=r'tracker "broken_tracker:T" cannot be loaded: ZeroDivisionError: division'):
        trackers.check("broken_tracker:T")
    with pytest.raises(UserError, match=r'tracker "unready_tracker:T" cannot be used: RuntimeError: no key'):
        trackers.check("unready_tracker:T")


def test_an_export_that_breaks_is_one_line_and_closes(mine: str, cache: TaskCache, tmp_path: Path) -> None:
    make_run(tmp_path, cache)
    with pytest.raises(UserError, match="tracker raises, cell exact/ppo/seed-0: RuntimeError: no connection"):
        exporting._curves(Results.load(tmp_path), "raises", tmp_path)
    assert TOLD[-1][0] == "close"


def test_a_run_is_told_from_others_wherever_it_lies() -> None:
    from bakeoff.benchmarks.trackers.wandb import identity_of

    def cell(run: str) -> trackers.TrackedCell:
        return trackers.TrackedCell.of({"suite": {"name": "quick"}, "id": run}, "exact/ppo/seed-0", {})

    assert cell("a").suite == "quick"
    here = identity_of(Path("/a/trackers/wandb"), cell("a"))
    assert here == identity_of(Path("/tmp/b/trackers/wandb"), cell("a"))
    assert here != identity_of(Path("/a/trackers/wandb"), cell("b"))
    assert here != identity_of(Path("/a/export/wandb"), cell("a"))
    assert trackers.TrackedCell.of({"suite": []}, "exact/ppo/seed-0", {}).suite == "bakeoff"
