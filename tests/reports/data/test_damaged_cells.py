"""One damaged cell is named as such, and the report of the others comes all the same."""

import hashlib
import json

import pytest

from bakeoff.reports import Results

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
