"""``bakeoff plan``: a pilot of the suite or one clear line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import run_folder
from bakeoff.cli import main

SUITE = """\
name: small
tasks:
  exact: {}
  high_kl: {task: exact, kl_coef: 0.5}
algorithms:
  ppo: {batch_size: 16}
  grpo: {batch_size: 16}
sweep:
  learning_rate: [0.001, 0.01]
seeds: 3
budget: {reward_queries: 160}
evaluate: {every: {reward_queries: 48}, completions: 16, samples: 2}
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    return path


def run_of(suite: Path, name: str = "pilot", **changed: Any) -> Path:
    """A folder as a run of the suite leaves it, with made-up scores; ``changed`` are overrides, with __ for a dot."""
    loaded = load_suite(str(suite), [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changed.items()])
    out = Path(name)
    out.mkdir()
    run_folder.open_folder(out, loaded, 1, "command")
    rng = np.random.default_rng(0)
    for cell in loaded.cells():
        folder = out / cell.path
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"schema": 2, **cell.to_json(), "data_source": "online"}))
        (folder / "status.json").write_text(
            json.dumps({"status": "done", "error": None, "attempts": 1, "seconds": 5.0})
        )
        metrics = {"proxy": 0.5, "kl": 1.0, "normalized_score": 0.5 + 0.05 * rng.normal()}
        spent = {"generated_tokens": 800, "reward_queries": 160, "trained_tokens": 3200, "seconds": 4.0}
        row = {"step": 10, "phase": "eval", **spent, "metrics": metrics}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (folder / "samples.jsonl").write_text("")
    return out


def test_plan_of_a_suite_with_two_tasks_and_a_sweep(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pilot = run_of(suite)
    assert main(["plan", "suite.yaml", "--pilot", str(pilot), "--difference", "0.1"]) == 0
    text = capsys.readouterr().out
    assert text.count("found with 80 % power (5 % error over 3 comparisons)") == 2
    assert "ppo[learning_rate=0.001]" in text
    lines = text.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("seeds "))
    seeds, cells, queries, *_, seconds = lines[head + 1].split()
    assert int(cells) == 8 * int(seeds)  # two tasks of four contestants
    assert lines[-1] == f"run it: bakeoff run suite.yaml --out DIR --seeds {seeds}"
    assert queries == f"{160 * int(cells) / 1000:.3g}k"
    assert float(seconds.rstrip("k")) == pytest.approx(
        5 * int(cells) / (1000 if seconds.endswith("k") else 1), rel=1e-2
    )

    one = ["--task", "exact", "--only", "ppo", "--set", "evaluate.samples=4"]
    assert main(["plan", "suite.yaml", "--pilot", str(pilot), "--difference", "0.1", *one]) == 0
    text = capsys.readouterr().out
    assert "high_kl" not in text
    assert "grpo" not in text
    assert "(5 % error)" in text


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({}, ["--difference", "0"], "difference 0: give a number above 0"),
        ({}, ["--difference", "-0.1"], "difference -0.1: give a number above 0"),
        ({}, ["--difference", "nan"], "difference nan: give a number above 0"),
        ({}, ["--task", "exac"], 'no task in this suite "exac"; did you mean "exact"?'),
        ({}, ["--only", "pppo"], 'no label in this suite "pppo"; did you mean "ppo"?'),
        ({}, ["--only", "ppo[learning_rate=0.01]"], "exact: ppo[learning_rate=0.01] alone; a plan compares two contestants"),
        ({}, ["--pilot", "nothing"], "nothing: no such folder"),
        ({}, ["--pilot", "."], "no manifest.json in it, so it is no run folder"),
        ({"tasks": ["exact"]}, [], 'pilot ran the suite "small", which has no task high_kl; give a run of this suite'),
        ({"algorithms": ["ppo"]}, [], "which has no contestant grpo[learning_rate=0.001], grpo[learning_rate=0.01]; give"),
        ({"budget__reward_queries": 80}, [], "with another budget for exact / ppo[learning_rate=0.001]; give a run"),
        ({"algorithms__ppo__batch_size": 8}, [], "with other settings of the algorithm for exact / ppo"),
        ({"tasks__high_kl__kl_coef": 0.4}, [], "with other settings of the task for high_kl / ppo"),
        ({"seeds": 1}, [], "pilot: one finished seed, which cannot show how seeds scatter, of exact / ppo[learning_rate=0.001]"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    suite: Path, changed: dict[str, Any], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pilot = run_of(suite, **changed)
    assert main(["plan", str(suite), "--pilot", str(pilot), "--difference", "0.1", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert message in shown.err


def test_cells_that_are_missing_or_unreadable(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pilot = run_of(suite)
    command = ["plan", str(suite), "--pilot", str(pilot), "--difference", "0.1"]
    for seed in range(3):
        (pilot / f"cells/exact/grpo[learning_rate=0.01]/seed-{seed}/status.json").unlink()
    assert main(command) == 2
    assert "pilot: no finished cell of exact / grpo[learning_rate=0.01]; run `bakeoff run" in capsys.readouterr().err
    assert main([*command, "--only", "ppo"]) == 0
    for status in pilot.glob("cells/*/*/*/status.json"):
        status.unlink()
    assert main(command) == 2
    assert "pilot: no finished cell of this suite" in capsys.readouterr().err
    manifest = json.loads((pilot / "manifest.json").read_text())
    (pilot / "manifest.json").write_text(json.dumps({**manifest, "suite": {"name": 3}}))
    assert main(command) == 2
    assert "pilot/manifest.json: holds no readable suite" in capsys.readouterr().err
