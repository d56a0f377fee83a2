"""The Ray executor on a real cluster of this machine. Without Ray these tests are skipped."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bakeoff.benchmarks.executors.archive import pack, unpack
from bakeoff.benchmarks.executors.base import Event, Interrupted, Job
from bakeoff.benchmarks.executors.ray import RayExecutor
from bakeoff.benchmarks.executors.ray_queue import EventQueue
from bakeoff.benchmarks.executors.ray_task_table import TaskTable
from bakeoff.benchmarks.run import run_suite
from bakeoff.benchmarks.spec.parts import RaySpec
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.errors import UserError

SUITE: dict[str, Any] = {
    "name": "small",
    "tasks": ["exact"],
    "algorithms": {"ppo": {"batch_size": 16}, "reference": {}},
    "seeds": 2,
    "budget": {"reward_queries": 480},
    "evaluate": {"every": {"reward_queries": 96}, "completions": 16, "samples": 2},
    "checkpoint_every": 0,
}


def rows(out: Path) -> dict[str, list[Any]]:
    found = {}
    for path in sorted(out.glob("cells/*/*/seed-*")):
        found[str(path.relative_to(out))] = [
            {**row, "seconds": 0} for row in atomic_files.read_rows(path / "metrics.jsonl")
        ] + [(path / "samples.jsonl").read_bytes(), (path / "model" / "model.safetensors").read_bytes()]
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the local executor makes of the suite, one thread per cell."""
    out = tmp_path_factory.mktemp("local")
    outcome = run_suite(load_suite(SUITE), out, workers=len(os.sched_getaffinity(0)))
    assert not outcome.failed
    return rows(out)


# ---------------------------------------------------------------- without a cluster


def test_archives_replace_and_drop_files(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    cell = Path("cells", "t", "l", "seed-0")
    for home, steps in ((here, ("2", "3")), (there, ("1", "2"))):
        for step in steps:
            (home / cell / "checkpoint" / step).mkdir(parents=True)
            (home / cell / "checkpoint" / step / "state.json").write_text(f"{home.name} {step}")
        (home / cell / "metrics.jsonl").write_text(home.name)
    (there / "manifest.json").write_text("{}")
    unpack(pack(here), there)
    assert sorted(path.name for path in (there / cell / "checkpoint").iterdir()) == ["2", "3"]
    assert (there / cell / "metrics.jsonl").read_text() == "here"
    assert (there / "manifest.json").read_text() == "{}"
    assert not list(there.glob(".incoming*"))


def test_an_archive_cannot_reach_outside(tmp_path: Path) -> None:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    with pytest.raises(tarfile.FilterError):
        unpack(buffer.getvalue(), tmp_path)
    assert not (tmp_path.parent / "outside").exists()


def test_queue_keeps_the_newest() -> None:
    queue = EventQueue()
    queue.put(1, "started", {})
    queue.put(1, "progress", {"share": 0.1})
    queue.put(1, "progress", {"share": 0.2})
    queue.put(2, "started", {})
    queue.keep(2, b"copy")
    assert queue.take_all() == [
        (1, "started", {}),
        (1, "progress", {"share": 0.2}),
        (2, "started", {}),
        (2, "kept", {}),
    ]
    assert queue.take_all() == []
    assert queue.copy(2) == b"copy"
    queue.drop(2)
    assert queue.copy(2) is None
    assert queue.put(1, "progress", {}) is False
    queue.stop()
    assert queue.put(1, "progress", {}) is True


# ---------------------------------------------------------------- with one


def runs(node: Any, task: str) -> bool:
    """Whether a worker of the node is at work on a task; Ray's workers carry its name."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for child in raylet.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if task in " ".join(child.cmdline()):
                return True
    return False


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, for the driver, and two nodes of one core each."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("ship", [False, True])
def test_suite_completes_after_a_node_died(
    ship: bool, cluster: Any, local: dict[str, list[Any]], tmp_path: Path
) -> None:
    suite = load_suite({**SUITE, "ray": {"address": cluster.address, "ship": ship}})
    executor = RayExecutor(suite.ray, 2, 1)
    seen: list[str] = []

    class Watch:
        """Kills the node of the first cell that has a few checkpoints."""

        killed = False

        def showing(self, total: int, done: int) -> Any:
            return contextlib.nullcontext()

        def note(self, text: str) -> None:
            pass

        def show(self, event: Event) -> None:
            seen.append(event.kind)
            if event.kind == "progress" and event.details["step"] >= 5 and not self.killed:
                busy = [node for node in cluster.workers if runs(node, event.job.title)]
                self.killed = bool(busy)  # it may have ended in this moment
                if busy:
                    cluster.remove_node(busy[0], allow_graceful=False)

    try:
        outcome = run_suite(suite, tmp_path, executor=executor, display=Watch())  # type: ignore[arg-type]
    finally:
        executor.close()
    assert not outcome.failed
    assert "retry" in seen  # a cell was on the node that died
    assert rows(tmp_path) == local


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_failures_time_limits_and_interruption(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    document = {
        **SUITE,
        "algorithms": {"fails": {}, "dies": {}, "player": {}},
        "seeds": 1,
        "budget": {"reward_queries": 192},
        "ray": {"retries": 1},
        "retries": 1,
    }
    outcome = run_suite(load_suite(document), tmp_path / "a", executor="ray", workers=2)
    assert set(outcome.failed) == {"cells/exact/fails/seed-0", "cells/exact/dies/seed-0"}
    status = atomic_files.read_json(tmp_path / "a" / "cells" / "exact" / "fails" / "seed-0" / "status.json")
    assert (status["status"], status["error"]) == ("failed", "ZeroDivisionError: the second update")
    assert "Traceback" in status["traceback"]
    dead = atomic_files.read_json(tmp_path / "a" / "cells" / "exact" / "dies" / "seed-0" / "status.json")
    assert dead["error"].startswith("its worker died")
    assert outcome.done == ["cells/exact/player/seed-0"]

    slow = {**SUITE, "algorithms": {"player": {}}, "seeds": 1, "budget": {"generated_tokens": 10**9}, "timeout": 6}
    late = run_suite(load_suite(slow), tmp_path / "b", executor="ray", workers=1)
    assert late.failed == {"cells/exact/player/seed-0": "timed out after 6 s"}

    executor = RayExecutor(RaySpec(), 1, 1)
    run_suite(load_suite({**slow, "timeout": 600, "algorithms": {"reference": {}}}), tmp_path / "c", executor=executor)
    cell = load_suite(slow).cells()[0]
    message = {
        "job": "cell", "folder": str(tmp_path / "c"), "cell": cell.to_json(), "checkpoint_every": 60, "trackers": [],
    }  # fmt: skip
    heard: list[str] = []

    def listen(event: Event) -> None:
        heard.append(event.kind)
        if event.kind == "progress" and heard.count("progress") == 1:
            threading.Timer(0.5, os.kill, (os.getpid(), 2)).start()

    started = time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job that a script put in the background
    with pytest.raises(Interrupted):
        executor.run([Job("player", message, "exact")], listen)
    executor.close()
    assert time.monotonic() - started < 60
    assert heard[-1] == "stopped"
    assert list((tmp_path / "c" / cell.path / "checkpoint").glob("0*"))


@pytest.mark.filterwarnings("ignore")
def test_no_cluster_is_one_line() -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.raises(UserError, match=r"no Ray cluster on 127\.0\.0\.1:1: .*check ray\.address"):
        RayExecutor(RaySpec(address="127.0.0.1:1"), 1, 1)


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--executor ray needs the package ray; pip install 'bakeoff\[ray\]'"):
        RayExecutor(RaySpec(), 1, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_started_here_has_room_for_a_cell(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.raises(
        UserError, match=r"ray\.gpus: a cell requests 2000 GPUs, and this machine has \d+; request fewer"
    ):
        RayExecutor(RaySpec(gpus=2000.0), 1, 1)
    assert not ray.is_initialized()
    document = {**SUITE, "algorithms": {"reference": {}}, "seeds": 1, "ray": {"cpus": 1.4}}
    assert not run_suite(load_suite(document), tmp_path, executor="ray", workers=1).failed


def test_what_ray_starts_again_takes_no_retry() -> None:
    """A cell whose node dies once, and that then raises, has its one retry left."""
    job = Job("cell", {"folder": ".", "job": "check"}, "exact", retries=1)
    events = {1: [(1, "started", {}), (1, "started", {})], 2: [(2, "started", {})]}
    heard: list[str] = []
    made: list[int] = []

    class Call:
        def __init__(self, answer: Any) -> None:
            self._answer = answer

        def remote(self, *given: Any) -> Any:
            return self._answer()

    class FakeRay:
        exceptions = SimpleNamespace(RayError=ConnectionError)

        def get(self, value: Any) -> Any:
            return ("failed", {"error": "it raised"}, None) if isinstance(value, str) else value

        def wait(self, references: list[str], **options: Any) -> tuple[list[str], list[str]]:
            return references, []

    queue = SimpleNamespace(take_all=Call(lambda: events.pop(made[-1], [])), drop=Call(lambda: None))

    def submit(number: int, job: Job) -> str:
        made.append(number)
        return f"reference {number}"

    table = TaskTable(FakeRay(), queue, submit, lambda event: heard.append(event.kind), False)
    table.submit(job)
    while table.running:
        table.poll(0.0)
    assert made == [1, 2]
    assert heard == ["started", "retry", "started", "retry", "started", "failed"]
