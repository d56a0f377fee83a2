import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bakeoff.benchmarks.cells.cell_runner import run_cell
from bakeoff.benchmarks.cells.jobs import Outcome, perform
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation.sample_cell import sample_cell
from bakeoff.benchmarks.executors.base import Event, Job
from bakeoff.benchmarks.progress import Display
from bakeoff.benchmarks.run import _record_failure, run_suite
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import atomic_files, run_folder
from bakeoff.benchmarks.storage.cell_store import Status
from bakeoff.cli import main
from bakeoff.errors import UserError
from bakeoff.reports import Results
from bakeoff.reports.analysis.verdict import caveats
from bakeoff.reports.data.store_reader import read_run
from bakeoff.text import printable

SUITE = """\
name: small
tasks: [exact]
algorithms:
  ppo: {batch_size: 16}
  reference: {}
seeds: 1
budget: {reward_queries: 160}
evaluate: {every: {reward_queries: 48}, completions: 16, samples: 2}
checkpoint_every: 0
"""


def write(folder: Path, text: str = SUITE) -> Path:
    path = folder / "suite.yaml"
    path.write_text(text)
    return path


def test_help_and_list_are_quick_and_import_nothing_heavy() -> None:
    code = "\n".join([
        "import sys, time, contextlib",
        "start = time.perf_counter()",
        "from bakeoff.cli import main",
        "main(['list', 'suites'])",
        "main(['list', 'algorithms', '--json'])",
        "with contextlib.suppress(SystemExit): main(['--help'])",
        "heavy = {'torch', 'pandas', 'transformers', 'numpy', 'gymnasium', 'matplotlib', 'rich', 'pydantic'}",
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)",
    ])  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Processor time: other tests may share the cores.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert "quick" in done.stdout
    assert "exit codes" in done.stdout


def test_list(capsys: pytest.CaptureFixture[str], plugin: Path) -> None:
    assert main(["list", "algorithms", "--json"]) == 0
    rows = {row["name"]: row["origin"] for row in json.loads(capsys.readouterr().out)}
    assert rows["player"] == "misbehaving 1.0 (misbehaving:Player)"
    assert "ppo" in rows
    for kind in ("tasks", "rewards", "suites"):
        assert main(["list", kind]) == 0
    assert "vader" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quik", "--out", "x"], 'no suite "quik"; did you mean "quick"?'),
        (["run", "none.yaml", "--out", "x"], "none.yaml: cannot be read"),
        (["run", "{suite}", "--out", "{folder}/suite.yaml"], "is a file; choose another --out"),
        (["run", "{suite}", "--out", "{folder}"], "not empty (suite.yaml) and not a run folder; choose another --out"),
        (["run", "{suite}", "--out", "/proc/nothing"], "/proc/nothing: cannot be written"),
        (["run", "{suite}", "--out", "x", "--only", "pppo"], 'no label in this suite "pppo"; did you mean "ppo"?'),
        (["run", "{suite}", "--out", "x", "--set", "budgett.x=1"], '--set budgett.x=1: unknown key "budgett"'),
        (["report", "{folder}/none"], "no such folder"),
        (["sample", "{folder}", "--prompt", "x"], "not a cell; give a folder such as"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suite = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(suite=suite, folder=tmp_path) for argument in arguments]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    assert main(["run", str(write(tmp_path)), "--out", str(out)]) == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err


def test_whose_folder_it_is(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path))
    out = tmp_path / "out"
    run_folder.make(out)
    run_folder.open_folder(out, load_suite(suite, ["budget.reward_queries=5"]), 1, "command")
    manifest = run_folder.open_folder(out, suite, 1, "command")  # nothing has begun: it is begun anew
    assert manifest["suite"]["budget"] == {"reward_queries": 160}
    (out / manifest["cells"][0]["path"]).mkdir(parents=True)
    assert run_folder.open_folder(out, suite, 2, "command") == manifest
    more = run_folder.open_folder(out, load_suite(suite, seeds=3), 1, "command")
    assert [entry["seed"] for entry in more["cells"]] == [0, 0, 1, 1, 2, 2]
    assert more["suite"]["seeds"] == [0, 1, 2]
    assert load_suite(more["suite"]) == load_suite(suite, seeds=3)
    with pytest.raises(run_folder.RunFolderError, match=r'belongs to another suite \("small"; budget differ\)'):
        run_folder.open_folder(out, load_suite(suite, ["budget.reward_queries=5"]), 1, "command")
    several = load_suite(suite, ["accelerate.processes=2"])
    with pytest.raises(run_folder.RunFolderError, match=r"\(\"small\"; accelerate differ\)"):
        run_folder.open_folder(out, several, 1, "command")
    atomic_files.write_json(out / "manifest.json", {**manifest, "suite": several.document()})
    with pytest.raises(run_folder.RunFolderError, match=r"\(\"small\"; accelerate differ\)"):  # the other way round
        run_folder.open_folder(out, suite, 1, "command")
    atomic_files.write_json(out / "manifest.json", manifest)
    (out / ".incoming-killed").mkdir()
    run_folder.open_folder(out, suite, 1, "command")
    assert not (out / ".incoming-killed").exists()
    with run_folder.locked(out), pytest.raises(run_folder.RunFolderError, match="another bakeoff run"):  # noqa: SIM117
        with run_folder.locked(out):
            pass
    atomic_files.write_json(out / "manifest.json", {**manifest, "schema": 99})
    with pytest.raises(run_folder.RunFolderError, match="schema is 99"):
        run_folder.open_folder(out, suite, 1, "command")
    atomic_files.write_json(out / "manifest.json", {**manifest, "schema": 1, "bakeoff": "0.0.9"})
    older = r"its schema is 1, .* writes 2; choose another --out, or finish it with the version .* bakeoff 0\.0\.9$"
    with pytest.raises(run_folder.RunFolderError, match=older):
        run_folder.open_folder(out, suite, 1, "command")
    for broken in ({**manifest, "cells": None}, {**manifest, "machine": {}}, []):
        atomic_files.write_json(out / "manifest.json", broken)
        with pytest.raises(run_folder.RunFolderError, match="damaged"):
            run_folder.open_folder(out, suite, 1, "command")
    (out / "manifest.json").write_text("{")
    with pytest.raises(run_folder.RunFolderError, match="damaged"):
        run_folder.open_folder(out, suite, 1, "command")
    versions = manifest["versions"]
    assert {"torch", "transformers", "bakeoff"} <= set(versions)


@pytest.mark.slow
def test_cells_fail_alone(plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = write(tmp_path, """\
name: mixed
tasks: [exact]
algorithms: {fails: {}, dies: {}, exits: {}, hungry: {}, killed: {}, player: {}}
seeds: 1
budget: {reward_queries: 192}
evaluate: {every: {reward_queries: 100}, completions: 8, samples: 1}
""")  # fmt: skip
    out = tmp_path / "out"
    assert main(["run", str(suite), "--out", str(out)]) == 1
    output = capsys.readouterr()
    assert (out / "report" / "index.html").is_file()
    assert output.out == f"run folder: {out}\nreport:     {out / 'report' / 'index.html'}\n"
    assert "Traceback" not in output.err
    cells = out / "cells" / "exact"
    status = {path.name: atomic_files.read_json(path / "seed-0" / "status.json") for path in cells.iterdir()}
    hungry = status.pop("hungry")
    assert hungry["status"] == "failed"
    assert "memory" in hungry["error"]
    assert "torch.empty" in hungry["traceback"]
    assert {name: (entry["status"], entry["error"]) for name, entry in status.items()} == {
        "fails": ("failed", "ZeroDivisionError: the second update"),
        "dies": ("failed", "its worker process died (exit code 7)"),
        "exits": ("failed", "SystemExit: bye"),
        "killed": ("failed", "its worker process died (killed by signal 9; out of memory?)"),
        "player": ("done", None),
    }
    assert 'raise ZeroDivisionError("the second' in status["fails"]["traceback"]
    text = (out / "report" / "report.md").read_text(encoding="utf-8")
    assert "5 cells failed, in no average" in text
    for name in ("fails", "dies", "exits", "killed"):
        assert f"failed: cells/exact/{name}/seed-0: {status[name]['error']}\n" in output.err
    rows = list(atomic_files.read_rows(cells / "fails" / "seed-0" / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [0, 1]  # what was measured before stays
    assert main(["run", str(suite), "--out", str(out), "--only", "player", "--no-report"]) == 0
    assert "report:" not in capsys.readouterr().out
    assert atomic_files.read_json(cells / "player" / "seed-0" / "status.json") == status["player"]


def test_a_task_that_cannot_be_built_is_bad_input(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write(tmp_path, SUITE.replace("[exact]", "[broken]"))
    assert main(["run", str(suite), "--out", str(tmp_path / "out"), "--quiet", "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert error == "bakeoff: task broken: prompt file x.txt is empty; write one prompt per line\n"
    assert not (tmp_path / "out" / "cells").exists()


@pytest.mark.slow
def test_nothing_is_lost_of_a_folder_by_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SUITE.replace("[exact]", "{mine: {task: custom, model: MODEL, prompts: PROMPTS, reward: length}}")
    model = Path(run_folder.__file__).parents[2] / "envs" / "tasks" / "exact" / "model"
    text = text.replace("MODEL", str(model.resolve())).replace(
        "ppo: {batch_size: 16}", "best_of_n: {batch_size: 16, n: 2}"
    )
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a b\nb c\nc d\na c\nd a\n")
    command = ["run", str(write(tmp_path)), "--out", str(out), "--quiet", "--workers", "1", "--no-report"]
    assert main([*command, "--executor", "rey"]) == 2
    assert not out.exists()
    write(tmp_path, text.replace("PROMPTS", str(tmp_path / "promts.txt")))
    assert main(command) == 2
    path = write(tmp_path, text.replace("PROMPTS", str(prompts)))  # mended, and into the same folder
    assert main(command) == 0

    # A finished cell that is damaged is in no average, and is done again.
    folder = out / "cells" / "mine" / "best_of_n" / "seed-0"
    whole = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(whole[: len(whole) // 2])
    (cell,) = [cell for cell in read_run(out).cells if cell.label == "best_of_n"]
    assert cell.status == "damaged"
    assert "does the cell again" in str(cell.error)
    assert main(command) == 0
    assert rows(folder) == [{**json.loads(line), "seconds": None} for line in whole.splitlines()]
    assert atomic_files.read_json(folder / "status.json")["attempts"] == 2

    # Other prompts are another task.
    capsys.readouterr()
    prompts.write_text("a b\nb c\nc d\na c\nd b\n")
    assert main([*command, "--seeds", "2"]) == 2
    assert "task mine: its prompts differ from those that this folder was begun with" in capsys.readouterr().err
    prompts.write_text("a b\nb c\nc d\na c\nd a\n")

    # Another run is not touched.
    before = (out / "manifest.json").read_bytes()
    with run_folder.locked(out):
        assert main([*command, "--seeds", "5"]) == 2
    assert (out / "manifest.json").read_bytes() == before

    # Other versions are noted, once.
    manifest = atomic_files.read_json(out / "manifest.json")
    manifest["versions"]["torch"] = "0.0"
    atomic_files.write_json(out / "manifest.json", manifest)
    for _ in range(2):
        suite = load_suite(path)
        now = run_folder.open_folder(out, suite, 1, "command")
        assert [list(change["versions"]) for change in now["later_versions"]] == [["torch"]]
    assert any("resumed with other versions" in note and "torch (0.0 to" in note for note in caveats(Results.load(out)))

    # What the disk refuses is one line.
    capsys.readouterr()
    shutil.rmtree(out / "tasks")
    (out / "tasks").write_text("a file")
    assert main([*command, "--seeds", "2"]) == 2
    assert "the same command resumes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", ","], "names nothing"),
        (["--ray-address", "auto"], "--ray-address is Ray's; add --executor ray, or leave it out"),
        (["--set", "tasks.exact.kl_coef=x"], 'setting "kl_coef": expected a number'),
    ],
)
def test_arguments_that_would_be_ignored(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, SUITE.replace("[exact]", "{exact: {}}"))
    try:
        code = main(["run", str(path), "--out", str(tmp_path / "out"), *arguments])
    except SystemExit as exit:
        code = exit.code  # type: ignore[assignment]
    assert code == 2
    assert told in capsys.readouterr().err
    assert main(["run", "a" * 5000, "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_a_failure_that_the_worker_could_not_write_is_written(tmp_path: Path) -> None:
    status = Status("running", attempts=1, seconds=3.0)
    status.write(tmp_path)
    job = Job("a cell", {}, "a", attempts=1)
    _record_failure(Event("failed", job, {"error": "OSError: no space left"}), tmp_path)
    found = Status.read(tmp_path)
    assert (found.status, found.error, found.seconds) == ("failed", "OSError: no space left", 3.0)


def test_a_cell_whose_worker_died_as_it_ended_is_not_run_again(cache: TaskCache, tmp_path: Path) -> None:
    (cell,) = [cell for cell in load_suite(write(tmp_path)).cells() if cell.label == "reference" and cell.seed == 0]
    message = {"job": "cell", "cell": cell.to_json(), "checkpoint_every": 60.0, "trackers": []}
    job, folder = Job("a cell", message, "a", attempts=1, retries=1), tmp_path / cell.path

    def work() -> Outcome:
        return perform(message, tmp_path, cache, lambda *a, **k: None, lambda: False)

    assert work().kind == "done"
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    died = {"error": "its worker process died", "died": True}
    assert _record_failure(Event("retry", job, died), folder).kind == "retry"  # it is handed out again
    assert Status.read(folder).is_done(folder)
    again = work()
    assert (again.kind, again.details["seconds"]) == ("done", Status.read(folder).seconds)
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before
    assert _record_failure(Event("failed", job, died), folder).kind == "done"


def test_progress_counts_each_run_by_itself() -> None:
    display = Display(io.StringIO())
    job = Job("a cell", {}, "a")
    for _ in range(2):
        with display.showing(1, 0):
            display.show(Event("started", job))
            display.show(Event("failed", job, {"error": "no"}))
            assert (display._ended, display._ended_here, display._failed) == (1, 1, 1)


def test_the_time_left_counts_from_where_a_cell_went_on() -> None:
    display, job, seconds = Display(io.StringIO()), Job("a cell", {}, "a"), [0.0]
    display._progress.get_time = lambda: seconds[0]
    display.show(Event("started", job))
    for seconds[0], share in ((10.0, 0.5), (50.0, 0.6), (110.0, 0.7)):  # a fifth in 100 seconds
        display.show(Event("progress", job, {"share": share, "metrics": {}}))
    assert display._running[id(job)].time_remaining == pytest.approx(150, abs=1)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "seconds": None} for row in atomic_files.read_rows(folder / "metrics.jsonl")]


def interrupted(tmp_path: Path, number: int, to_group: bool) -> tuple[int, str]:
    """Start a run, send it a signal in the middle; exit code and standard error."""
    command = [sys.executable, "-m", "bakeoff", "run", "suite.yaml", "--out", "out", "--only", "ppo", "--no-report"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=to_group)
    metrics = tmp_path / "out" / "cells" / "exact" / "ppo" / "seed-0" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while (not metrics.exists() or metrics.read_text().count("\n") < 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=120), process.communicate()[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_gone_on_with(number: int, cache: TaskCache, tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job that a script put in the background
    path = write(tmp_path)
    code, error = interrupted(tmp_path, number, to_group=True)
    cell_folder = tmp_path / "out" / "cells" / "exact" / "ppo" / "seed-0"
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert error.splitlines()[-1] == "bakeoff: interrupted; the same command resumes from here"
        assert atomic_files.read_json(cell_folder / "status.json")["status"] == "pending"
    assert 5 <= len(rows(cell_folder)) < 15  # 10 updates and 5 evaluations
    assert main(["run", str(path), "--out", str(tmp_path / "out"), "--only", "ppo", "--no-report", "--quiet"]) == 0
    (this,) = [cell for cell in load_suite(path).cells() if cell.label == "ppo"]
    run_cell(this, tmp_path / "whole", cache)
    assert rows(cell_folder) == rows(tmp_path / "whole")
    assert atomic_files.read_json(cell_folder / "status.json")["attempts"] == 2
    assert not (cell_folder / "checkpoint").exists()


def test_sample(
    cache: TaskCache, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (this,) = [cell for cell in load_suite(write(tmp_path)).cells() if cell.label == "reference"]
    folder = tmp_path / "run" / this.path
    run_cell(this, folder, cache)
    outputs = []
    for arguments in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"]):
        assert main(["sample", str(folder), "--prompt", "a b", "-n", "5", "--max-new-tokens", "5", *arguments]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert len(outputs[0].splitlines()) == 5
    assert all(line.startswith("a b") for line in outputs[0].splitlines())
    shutil.copytree(folder, tmp_path / "copy")  # away from its run
    with monkeypatch.context() as patch:
        patch.setattr(Path, "absolute", lambda self: Path("/copy"))
        assert sample_cell(tmp_path / "copy", "a b", 2, max_new_tokens=5).texts
    assert main(["sample", str(folder), "--prompt", "a b", "--temperature", "0"]) == 2
    assert "--temperature must be above 0" in capsys.readouterr().err


def test_a_model_cannot_steer_the_terminal() -> None:
    told = r"\x1b[31mred\x1b[0m\r\x07 \u202eflip\ud800 ok"
    assert printable("\x1b[31mred\x1b[0m\r\x07 \u202eflip\ud800 ok\tü\n") == told + "\tü\n"


def test_api(tmp_path: Path) -> None:
    import bakeoff

    values = {
        "name": "api",
        "tasks": ["exact"],
        "algorithms": {"reference": {}},
        "seeds": 2,
        "budget": {"reward_queries": 64},
    }
    overrides = {"evaluate.completions": 8}
    results = bakeoff.run(values, tmp_path / "out", progress=False, workers=1, overrides=overrides)
    assert set(results.frame["seed"]) == {0, 1}
    manifest = atomic_files.read_json(tmp_path / "out" / "manifest.json")
    assert manifest["suite"]["evaluate"]["completions"] == 8
    assert manifest["command"].startswith("bakeoff.run('api', out=")
    assert len(bakeoff.load(tmp_path / "out").frame) == len(results.frame)


REWARD = """
def kind(completions, **rest):
    return [float(len(text)) for text in completions]

def changes(completions, **rest):
    import os, sys, torch
    os.chdir("/")
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    sys.stdout.close()
    sys.stdout = None
    raise ValueError("no")

def starts(completions, **rest):
    import subprocess
    subprocess.Popen(["sleep", "61"], stdin=subprocess.DEVNULL)
    return kind(completions)
"""


def custom(folder: Path, **changes: Any) -> dict[str, Any]:
    """A suite of one's own prompts, model and reward."""
    (folder / "prompts.txt").write_text("a b\nb a\na a\nb b\n")
    (folder / "reward.py").write_text(REWARD)
    task = {
        "task": "custom",
        "model": str(Path(__file__).parents[2] / "envs" / "tasks" / "exact" / "model"),
        "prompts": str(folder / "prompts.txt"),
        "reward": f"{folder / 'reward.py'}:kind",
        "max_new_tokens": 3,
    }
    return {
        "name": "mine",
        "tasks": {"mine": {**task, **changes}},
        "algorithms": {"reference": {}, "best_of_n": {"n": 2, "batch_size": 4}},
        "seeds": 1,
        "budget": {"reward_queries": 8},
        "evaluate": {"completions": 4, "samples": 1},
    }


@pytest.mark.slow
def test_an_edited_reward_is_another_reward(tmp_path: Path) -> None:
    suite, out = load_suite(custom(tmp_path)), tmp_path / "out"
    run_suite(suite, out, workers=1, only=["reference"])
    (tmp_path / "reward.py").write_text(REWARD.replace("len(text)", "-len(text)"))
    with pytest.raises(UserError, match="task mine: its reward differ from those that this folder was begun with"):
        run_suite(suite, out, workers=1)
    (tmp_path / "reward.py").write_text(REWARD)
    assert len(run_suite(suite, out, workers=1).done) == 2


@pytest.mark.slow
def test_a_prompt_that_is_too_long_shows_before_the_first_cell(tmp_path: Path) -> None:
    document, out = custom(tmp_path), tmp_path / "out"
    (tmp_path / "prompts.txt").write_text("a b\n" + "a " * 500 + "\nb b\n")
    with pytest.raises(UserError, match=r"task mine: .*tokens"):
        run_suite(load_suite(document), out, workers=1)
    (tmp_path / "prompts.txt").write_text("a b\nb b\n")
    assert len(run_suite(load_suite(document), out, workers=1).done) == 2


@pytest.mark.slow
def test_what_broke_one_cell_breaks_no_other(tmp_path: Path) -> None:
    document = custom(tmp_path)
    broken = {**document["tasks"]["mine"], "reward": f"{tmp_path / 'reward.py'}:changes"}
    document["tasks"] = {"broken": broken, "mine": document["tasks"]["mine"]}
    outcome = run_suite(load_suite(document), tmp_path / "out", workers=1)
    assert sorted(outcome.failed) == [f"cells/broken/{label}/seed-0" for label in ("best_of_n", "reference")]
    assert all('reward "changes" raised ValueError: no' in error for error in outcome.failed.values())
    assert len(outcome.done) == 2


def test_a_cell_leaves_its_process_as_it_was(cache: TaskCache, tmp_path: Path) -> None:
    document = custom(tmp_path, reward=f"{tmp_path / 'reward.py'}:changes")
    message = {
        "job": "cell",
        "cell": load_suite(document).cells()[0].to_json(),
        "checkpoint_every": 60.0,
        "trackers": [],
    }
    before = os.getcwd(), torch.get_default_dtype(), torch.is_grad_enabled()
    with open(os.devnull, "w") as stream, contextlib.redirect_stdout(stream):
        outcome = perform(message, tmp_path, cache, lambda *a, **k: None, lambda: False)
        assert sys.stdout is stream
    assert outcome.kind == "failed"
    assert (os.getcwd(), torch.get_default_dtype(), torch.is_grad_enabled()) == before


def test_a_working_folder_that_is_gone_is_borne(
    cache: TaskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    message = {
        "job": "cell", "cell": load_suite(write(tmp_path)).cells()[-1].to_json(), "checkpoint_every": 60.0, "trackers": [],
    }  # fmt: skip
    outcome = perform(message, tmp_path, cache, lambda *a, **k: None, lambda: False)
    assert outcome.kind == "done", outcome


@pytest.mark.slow
def test_what_a_reward_has_started_ends_with_the_run(tmp_path: Path) -> None:
    import psutil

    document = custom(tmp_path, reward=f"{tmp_path / 'reward.py'}:starts")
    assert len(run_suite(load_suite(document), tmp_path / "out", workers=1).done) == 2
    alive = [process for process in psutil.process_iter() if process.status() != psutil.STATUS_ZOMBIE]
    with contextlib.suppress(psutil.NoSuchProcess):
        assert ["sleep", "61"] not in [process.cmdline() for process in alive if process.name() == "sleep"]


@pytest.mark.slow
def test_a_folder_that_goes_away_ends_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Remover(Display):
        def show(self, event: Event) -> None:
            if event.kind == "done":
                out.rename(tmp_path / "elsewhere")

    with pytest.raises(run_folder.RunFolderError, match="was moved or removed during the run; put it back"):
        run_suite(load_suite(custom(tmp_path)), out, workers=1, display=Remover(quiet=True))
    assert not out.exists()
    (tmp_path / "elsewhere").rename(out)
    assert len(run_suite(load_suite(custom(tmp_path)), out, workers=1).done) == 2


def test_a_terminal_that_goes_away_is_borne() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

    display, job = Display(Gone()), Job("a cell", {}, "a")
    with display.showing(1, 0):
        display.show(Event("started", job))
        display.show(Event("done", job, {}))


def test_standard_output_on_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("bakeoff.commands.list.execute", full)
        assert main(["list", "tasks"]) == 2
    assert (
        capsys.readouterr().err
        == "bakeoff: standard output: No space left on device; the run's results so far are kept\n"
    )


@pytest.mark.slow
def test_arguments_of_the_functions_are_checked(tmp_path: Path) -> None:
    import bakeoff

    suite = load_suite(write(tmp_path))
    for workers in (-1, 0, "2"):
        with pytest.raises(UserError, match=r"workers is .*; give a whole number of at least 1"):
            bakeoff.run(suite, tmp_path / "out", workers=workers)  # type: ignore[arg-type]
    results = bakeoff.run(suite, tmp_path / "out", workers=1, only="reference", progress=False)
    assert set(results.final["label"]) == {"reference"}
    with pytest.raises(UserError, match=r"none\.py"):
        bakeoff.run(suite, tmp_path / "out", plugins=str(tmp_path / "none.py"))
