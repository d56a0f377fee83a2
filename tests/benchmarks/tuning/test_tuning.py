import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bakeoff import registry
from bakeoff.benchmarks import trackers
from bakeoff.benchmarks.spec.reader import SuiteError
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.tuning import search, search_space
from bakeoff.benchmarks.tuning.search import Search, trial_seeds, trial_suite, tune
from bakeoff.cli import main
from bakeoff.errors import UserError

pytest.importorskip("optuna", reason="the extra `tune` is not installed")

SUITE: dict[str, Any] = {
    "name": "small",
    "tasks": {"exact": {"budget": {"reward_queries": 64}}},
    "algorithms": {"ppo": {"batch_size": 16}, "best_of_n": {"batch_size": 16}, "reference": {}},
    "seeds": [0, 1_000_000],
    "budget": {"reward_queries": 64},
    "evaluate": {"completions": 8, "samples": 2},
    "tune": {
        "trials": 3,
        "seeds": 2,
        "budget": {"reward_queries": 32},
        "space": {
            "ppo": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "epochs": [1, 2]},
            "best_of_n": {"n": {"low": 2, "high": 16}},
        },
    },
}


def test_seeds_of_trials_are_nobody_elses() -> None:
    assert trial_seeds([0, 1, 1_000_001], 3) == [1_000_000, 1_000_002, 1_000_003]


@pytest.mark.slow
def test_equal_trials_and_a_suite_of_the_best(tmp_path: Path) -> None:
    suite = load_suite(SUITE)
    path = tune(suite, tmp_path, workers=1)
    rows = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    by_label = {label: [row for row in rows if row["label"] == label] for label in ("ppo", "best_of_n")}
    assert len(rows) == 6  # the reference has nothing to search
    tuned = load_suite(path)
    assert tuned.seeds == suite.seeds
    assert tuned.budget == suite.budget
    assert tuned.tune is None
    assert tuned.tuned is not None
    assert (tuned.tuned["trials"], tuned.tuned["seeds"]) == (3, [1_000_001, 1_000_002])
    for label, trials in by_label.items():
        assert [row["trial"] for row in trials] == [0, 1, 2]
        assert trials[0]["settings"] == {}  # what the suite says is the first trial
        best = max((row for row in trials if row["score"] is not None), key=lambda row: row["score"])
        found = tuned.tuned["contestants"][label]
        assert found["settings"] == best["settings"]
        assert found["score"] == best["score"] >= found["score_before"] == trials[0]["score"]
        assert dict(tuned.algorithms[label].__pydantic_extra__) == {"batch_size": 16, **best["settings"]}
    manifest = atomic_files.read_json(tmp_path / "trials" / "0001" / "manifest.json")
    assert manifest["suite"]["seeds"] == [1_000_001, 1_000_002]
    assert manifest["suite"]["budget"] == {"reward_queries": 32}

    # Again, from nothing but the trials: the sampler asks the same, and no cell runs.
    before = yaml.safe_load(path.read_text())
    path.unlink()
    started = {file: file.stat().st_mtime_ns for file in (tmp_path / "trials").rglob("status.json")}
    assert yaml.safe_load(tune(suite, tmp_path, workers=1).read_text()) == before
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "trials").rglob("status.json")} == started


@pytest.mark.slow
def test_trials_of_another_suite_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    suite = {**SUITE, "algorithms": {"best_of_n": {"batch_size": 16}}}
    suite["tune"] = {**SUITE["tune"], "trials": 1, "space": {"best_of_n": SUITE["tune"]["space"]["best_of_n"]}}
    tune(load_suite(suite), tmp_path, workers=1)
    for change in (
        "tune.budget.reward_queries=48",
        "tasks.exact.kl_coef=3",
        "tune.seeds=1",
        "algorithms.best_of_n.batch_size=8",
    ):
        with pytest.raises(
            UserError, match="0000: holds a trial of another suite, or with other seeds or another budget"
        ):
            tune(load_suite(suite, [change]), tmp_path, workers=1)


def test_a_setting_that_cannot_be_used_is_a_failed_trial(tmp_path: Path) -> None:
    document = trial_suite(load_suite(SUITE), load_suite(SUITE).tune, {"ppo": {"epochs": 1}}, [7])  # type: ignore[arg-type]
    assert document["algorithms"] == {"ppo": {"batch_size": 16, "epochs": 1}}
    assert document["evaluate"]["every"] == {"reward_queries": 32}
    search = Search("a", {}, None, [{}, {"x": 1}, {"x": 2}, {"x": 3}], [0.5, None, 0.7, 0.7])
    assert search.best == 2
    assert Search("a", {}, None, [{}, {}], [None, None]).best == 0


def test_default_spaces_lie_inside_the_limits_of_every_setting() -> None:
    from bakeoff.algos.core.build import parse_config

    for name in registry.algorithms.names():
        kind = registry.algorithms.load(name)
        space = search_space.default_space(kind, {}, 1e-3)
        for key, values in space.items():
            ends = values if isinstance(values, list) else [values["low"], values["high"]]
            for value in ends:
                parse_config(kind, {key: value})
        assert "learning_rate" not in search_space.default_space(kind, {"learning_rate": 0.1}, 1e-3)
    assert search_space.default_space(registry.algorithms.load("reference"), {}, 1e-3) == {}
    assert "n" in search_space.default_space(registry.algorithms.load("rejection_sampling"), {}, 1e-3)


def test_what_an_answer_costs_is_not_searched() -> None:
    kind = registry.algorithms.load("best_of_n")
    assert search_space.default_space(kind, {}, 1e-3) == {}
    declared = {name for key in registry.algorithms.names() for name in registry.algorithms.load(key).not_tuned}
    assert declared == {"n", "learning_rate"}


def test_not_tuned_names_settings() -> None:
    for name in registry.algorithms.names():
        kind = registry.algorithms.load(name)
        assert kind.not_tuned <= set(kind.Config.model_fields)


def test_bad_spaces_are_named_with_their_place(tmp_path: Path) -> None:
    text = """\
name: bad
tasks: [exact]
algorithms: {ppo: {}}
seeds: 1
budget: {reward_queries: 64}
trackers: [tensorbord]
tune:
  trials: 0
  space:
    ppo:
      clipp: {low: 1, high: 2}
      clip: {low: -1, high: 0.3}
      epochs: {low: 4, high: 2}
      max_grad_norm: {low: 0, high: 1, log: true}
    grpo: {}
"""
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError) as caught:
        load_suite(path, check_tracker=trackers.check)
    problems = [problem.removeprefix(f"{path}:") for problem in caught.value.problems]
    for start in (
        '6: trackers: no tracker "tensorbord"; did you mean "tensorboard"?',
        "8: tune.trials: should be greater than or equal to 1, got 0",
        '11: tune.space.ppo.clipp: unknown setting "clipp"; did you mean "clip"?',
        '12: tune.space.ppo.clip: setting "clip": input should be greater than 0',
        "13: tune.space.ppo.epochs: low 4 is not below high 2",
        "14: tune.space.ppo.max_grad_norm: low 0 has no logarithm",
        '15: tune.space: "grpo" is no label of this suite',
    ):
        assert any(problem.startswith(start) for problem in problems), (start, problems)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({**SUITE, "algorithms": {"reference": {}}, "tune": {"trials": 1}}))
    assert main(["tune", str(path), "--out", str(tmp_path / "out"), "--workers", "1", "--quiet"]) == 2
    assert "has anything to search" in capsys.readouterr().err
    with pytest.raises(UserError, match="a suite with a sweep cannot be tuned"):
        tune(load_suite({**SUITE, "sweep": {"kl_coef": [0.1]}}), tmp_path / "x")


@pytest.mark.slow
def test_what_a_plugin_file_brings_is_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text('from bakeoff.algos.best_of_n import BestOfN\n\n\nclass Mine(BestOfN):\n    """Mine."""\n')
    space = {"mine": SUITE["tune"]["space"]["best_of_n"]}
    suite = {
        **SUITE,
        "algorithms": {"mine": {"batch_size": 16}},
        "tune": {**SUITE["tune"], "trials": 2, "space": space},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    monkeypatch.chdir(tmp_path)
    command = ["tune", "suite.yaml", "--out", "tuning", "--workers", "1", "--quiet"]
    assert main(command) == 2
    assert 'no algorithm "mine"' in capsys.readouterr().err
    assert main([*command, "--plugin", "mine.py"]) == 0
    assert "bakeoff run tuning/tuned.yaml --out tuning/run --plugin mine.py" in capsys.readouterr().out
    assert [json.loads(line)["label"] for line in Path("tuning/trials.jsonl").read_text().splitlines()] == ["mine"] * 2
    assert atomic_files.read_json(Path("tuning/trials/0001/manifest.json"))["plugins"][0]["path"] == str(plugin)


def test_learning_rate_range_is_around_the_labels_own() -> None:
    from bakeoff.benchmarks.tuning.search import _usual_rate

    ppo, sb3 = registry.algorithms.load("ppo"), registry.algorithms.load("sb3_dqn")
    whole = _usual_rate(ppo, {}, [128])
    assert whole == pytest.approx(2e-3 * (32 / 128) ** 1.5)
    assert _usual_rate(ppo, {"trainable": "lora"}, [128]) == pytest.approx(10 * whole)
    assert _usual_rate(ppo, {}, [32, 128]) == pytest.approx((2e-3 * whole) ** 0.5)  # the geometric mean
    assert _usual_rate(sb3, {}, [128]) == pytest.approx(sb3.Config().learning_rate)


def test_a_search_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    suite = load_suite({**SUITE, "algorithms": {"reinforce": {"batch_size": 16}}, "tune": {"trials": 1}})
    home = tmp_path / "trials" / "0000"
    home.mkdir(parents=True)
    atomic_files.write_json(home / "manifest.json", {"machine": {"threads_per_cell": 7}})
    seen: list[int] = []

    def make_executor(name: str, suite: Any, threads: int, workers: int | None) -> Any:
        seen.append(threads)
        raise UserError("enough")

    monkeypatch.setattr(search, "make_executor", make_executor)
    with pytest.raises(UserError, match="enough"):
        tune(suite, tmp_path, workers=1)
    assert seen == [7]


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite({**SUITE, "algorithms": {"reinforce": {"batch_size": 16}}, "tune": {"trials": 1}})
    real = atomic_files.write_json

    def full(path: Path, value: Any) -> None:
        if path.name == "scores.json":
            raise OSError(28, "No space left on device", str(path))
        real(path, value)

    monkeypatch.setattr(atomic_files, "write_json", full)
    with pytest.raises(UserError, match=r"scores\.json: No space left on device; what is done is kept"):
        tune(suite, tmp_path, workers=1)


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        (
            {"clip": {"low": 0.1, "high": 0.3, "step": 2}},
            'unknown key "step" in tune.space.ppo.clip; keys are low, high, log',
        ),
        ({"learning_rate": {"low": 0.1}}, 'key "tune.space.ppo.learning_rate.high" is missing'),
        ({"clip": {"low": "x", "high": 1}}, "tune.space.ppo.clip.low: should be a number, got 'x'"),
        ({"clip": [{"a": 1}]}, "tune.space.ppo.clip.0: should be text, a number, true or false, got {'a': 1}"),
        ({"clip": []}, "tune.space.ppo.clip: should not be empty, got []"),
        ({"clip": 3}, "tune.space.ppo.clip: should be a range (low, high) or a list of choices, got 3"),
    ],
)
def test_a_space_of_the_wrong_shape(space: Any, problem: str) -> None:
    document = {**SUITE, "tune": {"space": {"ppo": space}}}
    with pytest.raises(SuiteError) as caught:
        load_suite(document)
    assert caught.value.problems == [f"suite: {problem}"]


def test_a_space_for_what_is_no_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.Registry.load
    monkeypatch.setattr(registry.Registry, "load", lambda self, name: print if name == "ppo" else real(self, name))
    with pytest.raises(SuiteError, match="is no subclass of Algorithm") as caught:
        load_suite(SUITE)
    assert len(caught.value.problems) == 1


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tuned.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"not empty \(tuned\.yaml\) and not a search of"):
        tune(load_suite(SUITE), tmp_path, workers=1)
    assert (tmp_path / "tuned.yaml").read_text() == "mine"
