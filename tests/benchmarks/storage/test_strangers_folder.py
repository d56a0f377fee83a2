"""A run folder from a stranger: links and special files in it lead nowhere, whatever command is given it."""

import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest

from bakeoff.benchmarks.export import export
from bakeoff.cli import main
from bakeoff.errors import RunFolderError
from bakeoff.reports.data.store_reader import read_run
from bakeoff.reports.page.report import write_report

SUITE = """\
name: strange
tasks: [exact]
algorithms: {reference: {}, best_of_n: {n: 2}}
seeds: 1
budget: {reward_queries: 32}
evaluate: {every: {reward_queries: 32}, completions: 4, samples: 1}
"""
CELL = "cells/exact/reference/seed-0"
LINKED = [
    "report",
    "report/report.md",
    "report/.report.md.new",
    "report/figures",
    "report/figures/.drawn",
    "manifest.json",
    ".lock",
    "tasks",
    "tasks/exact.json",
    "cells",
    CELL,
    *(f"{CELL}/{name}" for name in ("metrics.jsonl", "samples.jsonl", "records.jsonl", "status.json", "config.json")),
    *(f"{CELL}/{name}" for name in ("checkpoint", "log.txt", ".model.new", "model", "model/config.json")),
    "trackers",
    "export",
    "export/csv",
]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stranger")
    (home / "suite.yaml").write_text(SUITE)
    assert main(["run", str(home / "suite.yaml"), "--out", str(home / "run"), "--quiet", "--no-report"]) == 0
    return home


@pytest.fixture
def stranger(run_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(run_once / "run", tmp_path / "run")
    return tmp_path / "run"


def plant(path: Path, target: Path, kind: str) -> None:
    """Put a link in the place of a file or a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        if target.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(target)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("kind", ["file", "folder", "device", "pipe"])
@pytest.mark.parametrize("place", LINKED)
def test_nothing_outside_is_written_and_nothing_hangs(
    place: str, kind: str, stranger: Path, run_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    (outside / "precious").write_text("mine")
    targets = {"file": outside / "precious", "folder": outside / "in", "device": Path("/dev/zero"), "pipe": outside}
    plant(stranger / place, targets[kind], kind)
    before, start = snapshot(outside), time.monotonic()
    if place.startswith("report") and kind in ("file", "folder"):
        with contextlib.suppress(RunFolderError):
            write_report(stranger)
    with contextlib.suppress(RunFolderError):
        for cell in read_run(stranger).cells:
            assert len([*cell.rows(), *cell.samples(), *cell.records()]) < 100
    assert main(["run", str(run_once / "suite.yaml"), "--out", str(stranger), "--quiet", "--no-report"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
    with contextlib.suppress(RunFolderError):
        export(stranger, "csv")
    assert snapshot(outside) == before
    assert time.monotonic() - start < 20


def test_rows_behind_a_link_are_not_read(stranger: Path, tmp_path: Path) -> None:
    (stranger / "cells").rename(tmp_path / "elsewhere")
    (stranger / "cells").symlink_to(tmp_path / "elsewhere")
    cells = read_run(stranger).cells
    assert {cell.status for cell in cells} == {"damaged"}
    assert [(cell.rows(), cell.samples(), list(cell.records()), cell.evaluations) for cell in cells] == [
        ([], [], [], [])
    ] * 2
    assert "link" in str(cells[0].error)
