"""Run folders become tidy frames, whatever state they are in."""

import json

import numpy as np
import pytest

from bakeoff.errors import NotFoundError, RunFolderError
from bakeoff.reports import Results


def test_every_planned_cell_is_named_with_its_state(results):
    cells = results.cells
    assert len(cells) == 24
    assert cells["status"].value_counts().to_dict() == {"done": 22, "failed": 1, "missing": 1}
    failed = cells[cells["status"] == "failed"].iloc[0]
    assert (failed["task"], failed["label"], failed["seed"]) == ("exact", "dpo", 1)
    assert "returned NaN" in failed["error"]
    missing = cells[cells["status"] == "missing"].iloc[0]
    assert (missing["task"], missing["label"], missing["seed"], missing["error"]) == (
        "reviews",
        "dpo",
        2,
        "never started",
    )


def test_a_torn_last_line_is_dropped_and_counted(results):
    torn = results.cells[results.cells["torn_lines"] > 0]
    assert torn[["task", "label", "seed", "torn_lines", "status"]].to_numpy().tolist() == [
        ["reviews", "ppo", 0, 1, "done"]
    ]


def test_the_tidy_frame_has_one_row_a_number(results):
    frame = results.frame
    assert list(frame.columns) == [
        *("run", "task", "label", "algorithm", "seed", "phase", "step"),
        *("generated_tokens", "reward_queries", "trained_tokens", "seconds", "metric", "value"),
    ]
    one = frame[(frame["task"] == "exact") & (frame["label"] == "ppo") & (frame["seed"] == 2)]
    score = one[one["metric"] == "normalized_score"]
    assert score["reward_queries"].tolist() == [0, 500, 1000, 1500, 2000]
    np.testing.assert_allclose(score["value"], [0, 0.2425, 0.485, 0.7275, 0.97])
    assert one[one["metric"] == "loss"]["phase"].unique().tolist() == ["train"]
    assert not frame["value"].isna().any()


def test_a_metric_may_have_any_name(synthetic, tmp_path):
    """Q-learning reports its `value`, and a plugin whatever it likes; none may take the place of a column."""
    names = ("value", "metric", "seed", "step", "_entry", "seconds", "loss")
    synthetic.write_cell(tmp_path, "t", "q", 0, final=dict(zip(names, range(1, 8), strict=True)))
    synthetic.write_manifest(tmp_path, suite={"name": "s"}, planned=[("t", "q", 0)], tasks={})
    frame = Results.load(tmp_path).frame
    last = frame[(frame["phase"] == "eval") & (frame["step"] == 40)]
    told = {name.removeprefix("metrics."): value for name, value in zip(last["metric"], last["value"], strict=True)}
    assert told == dict(zip(names, range(1, 8), strict=True))
    assert set(frame["seed"]) == {0}


def test_samples_keep_what_was_stored(results, synthetic):
    samples = results.samples
    assert {"run", "task", "label", "seed", "step", "prompt", "completion", "proxy", "kl", "win"} <= set(samples)
    mine = samples[(samples["task"] == "reviews") & (samples["label"] == "ppo") & (samples["seed"] == 0)]
    assert len(mine) == 5 * len(synthetic.HOSTILE)
    assert "\ufffd lone surrogate" in mine["completion"].str.cat()
    assert sorted(results.end_samples["step"].unique()) == [0, 40]


def test_only_finished_cells_count(results):
    final = results.final
    assert len(final) == 22
    assert not ((final["task"] == "exact") & (final["label"] == "dpo") & (final["seed"] == 1)).any()
    assert results.untrained == {"reference"}
    assert results.primary_metric("exact") == "normalized_score"
    assert results.primary_metric("reviews") == "objective"


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(RunFolderError, match="no such folder; give the folder"):
        Results.load(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"no manifest\.json"):
        Results.load(tmp_path)
    with pytest.raises(RunFolderError, match="given twice"):
        Results.load([run, run])
    with pytest.raises(RunFolderError, match="no run folder given"):
        Results.load([])
    (tmp_path / "manifest.json").write_text('{"schema": 1, "cel')
    with pytest.raises(RunFolderError, match="not readable"):
        Results.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 3}')
    with pytest.raises(RunFolderError, match="schema 3"):
        Results.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "bakeoff": "0.0.9"}')
    with pytest.raises(RunFolderError, match=r"schema 1, .* reads 2; use the version .*, bakeoff 0\.0\.9$"):
        Results.load(tmp_path)


@pytest.mark.parametrize(
    ("task", "read"), [("exact", "cells/exact/ppo/seed-0"), ("../../..", "cells"), ("/etc", "cells")]
)
def test_a_manifest_cannot_point_outside_its_folder(tmp_path, task, read):
    cell = {"task": task, "label": "ppo", "algorithm": "ppo", "seed": 0, "path": "../../secret"}
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 2, "cells": [cell]}))
    (entry,) = Results.load(tmp_path).entries
    assert entry.cell.path == tmp_path / read


def test_a_done_cell_without_an_evaluation_is_damaged(tmp_path, synthetic):
    folder = synthetic.write_cell(tmp_path, "exact", "ppo", 0, final={"proxy": 1.0})
    synthetic.write_manifest(tmp_path, suite={}, planned=[("exact", "ppo", 0)], tasks={})
    (folder / "metrics.jsonl").write_bytes(b'\xff\xfe{"step": 1}\n[]\n')
    (cell,) = Results.load(tmp_path).cells.itertuples()
    assert (cell.status, cell.torn_lines) == ("damaged", 2)


def _one_cell_run(synthetic, folder, seeds, settings, **kwargs):
    for seed in seeds:
        final = {"proxy": float(seed), "kl": 1.0, "objective": float(seed)}
        synthetic.write_cell(folder, "exact", "ppo", seed, final=final, settings=settings, **kwargs)
    synthetic.write_manifest(folder, suite={}, planned=[("exact", "ppo", seed) for seed in seeds], tasks={})
    return folder


def test_runs_that_continue_each_other_are_merged(tmp_path, synthetic):
    a = _one_cell_run(synthetic, tmp_path / "a", [0, 1], {"lr": 1})
    b = _one_cell_run(synthetic, tmp_path / "b", [2], {"lr": 1})
    board = Results.load([a, b]).leaderboard()
    assert board[["label", "seeds", "mean"]].to_numpy().tolist() == [["ppo", 3, 1.0]]


def test_runs_that_differ_are_kept_apart(tmp_path, synthetic):
    a = _one_cell_run(synthetic, tmp_path / "a", [0, 1], {"lr": 1})
    other_settings = _one_cell_run(synthetic, tmp_path / "b", [2], {"lr": 2})
    same_seed = _one_cell_run(synthetic, tmp_path / "c", [1], {"lr": 1})
    other_task = _one_cell_run(synthetic, tmp_path / "d", [3], {"lr": 1}, task_settings={"size": 9})
    assert Results.load([a, other_settings]).labels() == ["ppo [a]", "ppo [b]"]
    assert Results.load([a, same_seed]).labels() == ["ppo [a]", "ppo [c]"]
    assert Results.load([a, other_task]).task_names() == ["exact [a]", "exact [d]"]


def test_other_prompts_and_other_plugin_files_are_kept_apart(tmp_path, synthetic):
    def write(name, seed, inputs="x", plugins=(), label="ppo", task="exact", settings=None):
        folder = tmp_path / name
        synthetic.write_cell(folder, task, label, seed, final={"proxy": 1.0, "kl": 1.0}, task_settings=settings)
        config = folder / "cells" / task / label / f"seed-{seed}" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "task_name": task}))
        info = {task: {"inputs": {"prompts": inputs}}}
        synthetic.write_manifest(folder, suite={}, planned=[(task, label, seed)], tasks=info)
        manifest = json.loads((folder / "manifest.json").read_text())
        names = {"algorithms": ["mine"], "tasks": ["own"], "rewards": ["my_reward"]}
        manifest["plugins"] = [{"path": "mine.py", "sha256": text, "names": names} for text in plugins]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    first = write("a", 0)
    assert Results.load([first, write("b", 1)]).labels() == ["ppo"]
    assert Results.load([first, write("c", 1, inputs="y")]).task_names() == ["exact [a]", "exact [c]"]
    assert Results.load([first, write("d", 1, plugins=["1"])]).labels() == ["ppo"]  # ppo is installed
    mine = write("e", 0, plugins=["1"], label="mine")
    assert Results.load([mine, write("f", 1, plugins=["1"], label="mine")]).labels() == ["mine"]
    assert Results.load([mine, write("g", 1, plugins=["2"], label="mine")]).labels() == ["mine [e]", "mine [g]"]
    own = write("h", 0, plugins=["1"], task="own")
    assert Results.load([own, write("i", 1, plugins=["2"], task="own")]).task_names() == ["own [h]", "own [i]"]
    composed = {"reward": {"weighted": [{"reward": "my_reward"}]}}
    judged = write("j", 0, plugins=["1"], settings=composed)
    assert len(Results.load([judged, write("k", 1, plugins=["2"], settings=composed)]).task_names()) == 2
    assert len(Results.load([judged, write("l", 1, plugins=["1"], settings=composed)]).task_names()) == 1


def test_runs_of_one_name_get_names_that_nobody_has(tmp_path, synthetic):
    folders = [tmp_path / "x" / "run-2", tmp_path / "x" / "run", tmp_path / "y" / "run"]
    for seed, folder in enumerate(folders):
        _one_cell_run(synthetic, folder, [seed], {"lr": seed})
    results = Results.load(folders)
    assert results.labels() == ["ppo [run-2]", "ppo [run]", "ppo [run-3]"]
    assert len(results.final) == 3


def test_an_unknown_kind_or_task_is_told_with_a_suggestion(results):
    with pytest.raises(NotFoundError, match='did you mean "frontier"'):
        results.plot("fronteir")
    with pytest.raises(NotFoundError, match='did you mean "exact"'):
        results.plot("frontier", task="exakt")


def test_a_notebook_shows_the_leaderboard_escaped(results):
    html = results._repr_html_()
    assert "<bdi>ppo</bdi>" in html
    assert "exact / <bdi>dpo</bdi> / seed 1: failed" in html
    assert "22 done, 1 failed, 1 missing" in repr(results)
