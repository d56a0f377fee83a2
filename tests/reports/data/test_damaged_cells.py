"""One damaged cell is named as such, and the report of the others comes all the same."""

import hashlib
import json

import pytest

from bakeoff.reports import Results, write_report

NAMES = ("metrics.jsonl", "samples.jsonl", "records.jsonl")


@pytest.fixture
def folder(tmp_path, synthetic):
    """A run of two cells; the folder of the first."""
    cells = [
        synthetic.write_cell(tmp_path, "exact", "ppo", seed, final={"proxy": 1.0, "kl": 0.5, "objective": 0.9})
        for seed in (0, 1)
    ]
    synthetic.write_manifest(tmp_path, suite={}, planned=[("exact", "ppo", 0), ("exact", "ppo", 1)], tasks={})
    return cells[0]


def statuses(run):
    return [(cell.status, cell.error) for cell in Results.load(run).cells.itertuples()]


@pytest.mark.parametrize("name", NAMES)
def test_each_row_file_of_a_done_cell_is_held_to_its_checksum(folder, name, tmp_path):
    (folder / "records.jsonl").write_text('{"step": 1}\n')
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES}
    state = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**state, "sums": sums}))
    assert [status for status, _ in statuses(tmp_path)] == ["done", "done"]
    with (folder / name).open("a") as file:
        file.write(" \n")
    status, error = statuses(tmp_path)[0]
    assert (status, error.split(" is not as")[0]) == ("damaged", name)
    (folder / name).unlink()
    assert statuses(tmp_path)[0][0] == "damaged"
    (folder / "status.json").write_text(json.dumps({**state, "sums": 5}))
    assert statuses(tmp_path)[0][0] == "damaged"


BAD_METRICS = ["1e308", "-1e308", "1e999", "1" * 400, "NaN", '"text"', "[1]", "{}", "true", "null"]
BAD_SAMPLES = [
    '{"step": 3}',
    '{"step": 3, "prompt": 5, "completion": [], "proxy": "x", "gold": {}, "kl": [], "length": null, "win": "y"}',
    '{"step": 3, "prompt": "p", "completion": "c", "proxy": ' + "1" * 400 + "}",
    '{"step": 3, "prompt": "p", "completion": "c", "proxy_parts": 3, "measures": 4, "tokens": 5, "log_ratios": 6}',
    '{"step": 3, "prompt": "p", "completion": "c", "tokens": [1, {}], "log_ratios": ["a", [1]], "prompt_index": "z"}',
]


@pytest.mark.parametrize("value", BAD_METRICS)
def test_metrics_that_are_no_numbers(folder, value, tmp_path):
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    text = "".join(json.dumps({**row, "metrics": {**row["metrics"], "proxy": "HERE"}}) + "\n" for row in rows)
    path.write_text(text.replace('"HERE"', value))
    assert [status for status, _ in statuses(tmp_path)] == ["done" if value == "null" else "damaged", "done"]
    assert write_report(tmp_path).exists()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["step", "reward_queries", "seconds", "phase", "metrics"])
@pytest.mark.parametrize("value", ["1e308", "1" * 400, '"text"', "[1]", "null"])
def test_rows_of_wrong_types(folder, key, value, tmp_path):
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, key: "HERE"}) + "\n" for row in rows).replace('"HERE"', value))
    assert write_report(tmp_path).exists()


@pytest.mark.parametrize("row", BAD_SAMPLES)
def test_samples_of_wrong_types(folder, row, tmp_path):
    with (folder / "samples.jsonl").open("a") as file:
        file.write(row + "\n")
    assert write_report(tmp_path).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    ["plugins", "suite", "versions", "later_versions", "machine", "created", "command", "cells", "tasks", "bakeoff"],
)
@pytest.mark.parametrize("value", [5, "text", [5], {"a": 5}, None])
def test_manifests_of_wrong_types(folder, key, value, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert write_report(tmp_path).exists()


def test_a_manifest_whose_plugins_are_a_number(folder, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "plugins": 5}))
    assert write_report(tmp_path).exists()
    assert statuses(tmp_path) == [("done", None)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "status.json"])
@pytest.mark.parametrize("value", [5, "text", [5], {"a": [5]}, 10**400])
def test_cell_files_of_wrong_types(folder, file, value, tmp_path):
    path = folder / file
    for key, before in json.loads(path.read_text()).items():
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        assert len(statuses(tmp_path)) == 2, (key, before)
    assert write_report(tmp_path).exists()
