"""The local executor against a stand-in worker that imports nothing, so that deaths and time limits cost no time."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bakeoff.benchmarks.executors.base import Event, Interrupted, Job
from bakeoff.benchmarks.executors.local import LocalExecutor
from bakeoff.errors import BakeoffError

WORKER = """
import json, os, signal, sys, time
print(json.dumps({"event": "ready"}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    kind = job["job"]
    if kind == "stop":
        continue
    def tell(event, **details):
        print(json.dumps({"event": event, "pid": os.getpid(), **details}), flush=True)
    if kind == "work":
        tell("progress", share=0.5)
        tell("done")
    elif kind == "fail":
        tell("failed", error="as told")
    elif kind == "exit":
        os._exit(7)
    elif kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "forks and dies":
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "flaky":
        again = os.path.exists(job["marker"])
        open(job["marker"], "w").close()
        tell("done" if again else "failed", error="first")
    elif kind == "long":
        tell("progress", share=0.5)
        json.loads(sys.stdin.readline())
        tell("stopped")
"""


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "stand_in.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    with_two = LocalExecutor(2, 1, "stand_in")
    yield with_two
    with_two.close()


def job(kind: str, affinity: str = "a", **settings: object) -> Job:
    options = {key: settings.pop(key) for key in ("timeout", "retries") if key in settings}
    return Job(kind, {"job": kind, **settings}, affinity, **options)  # type: ignore[arg-type]


def run(executor: LocalExecutor, *jobs: Job) -> list[tuple[str, str, object]]:
    heard: list[Event] = []
    executor.run(jobs, heard.append)
    ends = {id(event.job): event for event in heard if event.kind in ("done", "failed", "stopped")}
    assert len(ends) == len(jobs)
    return [(this.title, ends[id(this)].kind, ends[id(this)].details.get("error")) for this in jobs]


def test_all_jobs_end_whatever_happens_to_some(executor: LocalExecutor) -> None:
    jobs = [job("work"), job("die"), job("fail"), job("exit"), job("hang", timeout=0.5), job("work"), job("work")]
    assert run(executor, *jobs) == [
        ("work", "done", None),
        ("die", "failed", "its worker process died (killed by signal 9; out of memory?)"),
        ("fail", "failed", "as told"),
        ("exit", "failed", "its worker process died (exit code 7)"),
        ("hang", "failed", "timed out after 0.5 s"),
        ("work", "done", None),
        ("work", "done", None),
    ]
    assert run(executor, job("work")) == [("work", "done", None)]  # and it can be used again


def test_a_death_is_noticed_though_a_child_lives_on(executor: LocalExecutor) -> None:
    started = time.perf_counter()
    assert run(executor, job("forks and dies"), job("work")) == [
        ("forks and dies", "failed", "its worker process died (killed by signal 9; out of memory?)"),
        ("work", "done", None),
    ]
    assert time.perf_counter() - started < 30


def test_a_workers_input_is_nobodys() -> None:
    code = "\n".join([
        "import subprocess, sys",
        "from bakeoff.benchmarks.cells.standard_streams import silence_input",
        "silence_input()",
        "print(repr(subprocess.run(['cat'], capture_output=True).stdout))",
    ])  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"b''\n"


def test_retries(executor: LocalExecutor, tmp_path: Path) -> None:
    jobs = [
        job("flaky", marker=str(tmp_path / "marker"), retries=3),
        job("fail", retries=2),
        job("die", retries=1),
        job("hang", timeout=0.2, retries=1),
    ]
    assert [kind for _, kind, _ in run(executor, *jobs)] == ["done", "failed", "failed", "failed"]
    assert [this.attempts for this in jobs] == [2, 3, 2, 2]


def test_after_a_failure_comes_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stand_in.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    executor = LocalExecutor(1, 1, "stand_in")
    heard: list[Event] = []
    executor.run([job("work"), job("work"), job("fail"), job("work")], heard.append)
    executor.close()
    pids = [event.details["pid"] for event in heard if event.kind in ("done", "failed")]
    assert pids[0] == pids[1] == pids[2] != pids[3]


def test_jobs_go_where_their_task_is_loaded(executor: LocalExecutor) -> None:
    jobs = [job("work", affinity) for affinity in "ab" * 20]
    heard: list[Event] = []
    executor.run(jobs, heard.append)
    where = [(event.job.affinity, event.details["pid"]) for event in heard if event.kind == "done"]
    changes = sum(
        one != two
        for pid in {pid for _, pid in where}
        for one, two in zip(*[[a for a, p in where if p == pid][k:] for k in (0, 1)], strict=False)
    )
    assert changes <= 2


def test_two_thousand_jobs_take_seconds(executor: LocalExecutor) -> None:
    started = time.perf_counter()
    assert {kind for _, kind, _ in run(executor, *(job("work") for _ in range(2000)))} == {"done"}
    assert time.perf_counter() - started < 30


def test_interruption_waits_for_checkpoints(executor: LocalExecutor) -> None:
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind == "progress":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job that a script put in the background
    with pytest.raises(Interrupted, match="the same command resumes"):
        executor.run([job("long")], listen)
    assert [event.kind for event in heard] == ["started", "progress", "stopping", "stopped"]


def test_workers_that_cannot_start_are_no_endless_loop(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stand_in.py").write_text("raise SystemExit('no such library')")
    with pytest.raises(BakeoffError, match=r"a worker process cannot start \(exit code 1\): no such library"):
        executor.run([job("work")], lambda event: None)
