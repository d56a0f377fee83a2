"""However a run ends, none of its processes outlives it: `kill -9` of the parent, an orderly end, an idle or a busy worker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bakeoff.benchmarks.executors.base import Job
from bakeoff.benchmarks.executors.local import LocalExecutor

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")

PLUGIN = """
import multiprocessing, os, pathlib, re, subprocess, time
from bakeoff.algos.core.algorithm import Algorithm, DataSource

class Busy(Algorithm):
    '''Starts processes, says so, and then keeps its worker busy for ever.'''
    data_source = DataSource.ONLINE
    def update(self):
        subprocess.Popen(["sleep", "1000"])
        if os.fork() == 0:
            time.sleep(1000)
            os._exit(0)
        pathlib.Path(os.environ["HERE"], "busy").touch()
        if os.environ["HOW"] == "sleeps":
            time.sleep(1000)
        re.match("(a+)+b", "a" * 60)  # holds the interpreter's lock: no other thread of the worker runs
"""
SUITE = """\
name: two
tasks: [exact]
algorithms: {reference: {}, busy: {}}
seeds: 1
budget: {reward_queries: 64}
evaluate: {every: {reward_queries: 64}, completions: 4, samples: 1}
"""
RUN = [sys.executable, "-c", "import sys; from bakeoff.cli import main; sys.exit(main(sys.argv[1:]))", "run"]


def marked(mark: str) -> list[int]:
    """Ids of all living processes that have inherited an environment with this text."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:  # gone, or another user's
            continue
    return [pid for pid in found if Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"]


def seconds_until_gone(mark: str, longest: float) -> float:
    start = time.monotonic()
    while marked(mark) and time.monotonic() - start < longest:
        time.sleep(0.02)
    return time.monotonic() - start


def kill_and_count(home: Path, how: str) -> None:
    """Kill a run once one worker is idle and the other busy, with two children; none is left after 2 s."""
    home.mkdir()
    (home / "suite.yaml").write_text(SUITE)
    (home / "busy.py").write_text(PLUGIN)
    files = [str(home / "suite.yaml"), "--out", str(home / "run"), "--plugin", str(home / "busy.py")]
    environment = {**os.environ, "HERE": str(home), "HOW": how}
    done = home / "run" / "cells" / "exact" / "reference" / "seed-0" / "model"
    with subprocess.Popen([*RUN, *files, "--workers", "2", "--quiet"], env=environment) as parent:
        try:
            deadline = time.monotonic() + 120
            while not ((home / "busy").exists() and done.exists()):
                assert time.monotonic() < deadline
                assert parent.poll() is None
                time.sleep(0.05)
            assert len(marked(f"HERE={home}\0")) >= 5  # the parent, two workers, two children
        finally:
            parent.kill()
    left = seconds_until_gone(f"HERE={home}\0", 2.0)
    for pid in marked(f"HERE={home}\0"):
        os.kill(pid, signal.SIGKILL)
    assert left < 2.0


@pytest.mark.parametrize("how", ["sleeps", "computes"])
def test_a_killed_run_leaves_no_process(how: str, tmp_path: Path) -> None:
    kill_and_count(tmp_path / "one", how)


@pytest.mark.slow
def test_many_killed_runs_leave_no_process(tmp_path: Path) -> None:
    for number in range(int(os.environ.get("BAKEOFF_TEST_KILLS", "10"))):  # 50 by hand: some six minutes
        kill_and_count(tmp_path / str(number), ("sleeps", "computes")[number % 2])


def test_an_orderly_end_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"MARK={tmp_path}"
    monkeypatch.setenv("MARK", str(tmp_path))
    executor = LocalExecutor(2, 1)
    job = {"job": "check", "folder": str(tmp_path), "label": "x", "task": "exact", "settings": {}, "plugins": []}
    executor.run([Job(str(k), job, "x") for k in range(2)], lambda event: None)
    workers = [process._popen for process in executor._processes]
    assert len(workers) == 2
    start = time.monotonic()
    executor.close()
    assert time.monotonic() - start < 2.0  # by force it took 5 s for each
    assert [worker.returncode for worker in workers] == [0, 0]
    assert marked(mark + "\0") == []


def test_processes_that_draw_a_report_end_with_their_parent(tmp_path: Path) -> None:
    script = """
import multiprocessing, os, signal, time
from concurrent.futures import ProcessPoolExecutor
from bakeoff.reports.page.report import _end_with_parent
with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
    pool.submit(time.sleep, 0).result()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "MARK": str(tmp_path)}, check=False)
    assert seconds_until_gone(f"MARK={tmp_path}\0", 10.0) < 10.0
