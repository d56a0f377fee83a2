import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bakeoff.benchmarks.storage import atomic_files, checkpoint
from bakeoff.benchmarks.storage.cell_store import CellStore, Status
from bakeoff.errors import UserError


def equal(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or a != a


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    state = {
        "tensor": weights,
        "tied": weights,
        "view": weights[1:, ::2],
        "half": weights.to(torch.bfloat16)[:1],
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.95)}]},
        "array": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "no array": np.zeros(0),
        "scalar": np.float32(0.1),
        "numbers": [1, -(2**100), 0.1, float("nan"), float("inf"), -0.0, True, None],
        "text": "\ud800 \x00 é",
        "bytes": b"\x00\xff",
        "$": {"$": "tensor"},
        "generator": np.random.default_rng(0).bit_generator.state,
        "nested": ((), [], {}, (1, (2,))),
    }
    checkpoint.save_state(state, tmp_path)
    loaded = checkpoint.load_state(tmp_path)
    for key in state:
        assert equal(loaded[key], state[key]), key
    assert {path.name for path in tmp_path.iterdir()} == {"state.json", "tensors.safetensors"}


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()]), torch.eye(2).to_sparse()])
def test_what_needs_pickle_is_refused_by_its_place(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"state\.a\.1"):
        checkpoint.save_state({"a": [0, value]}, tmp_path)


def rows(store: CellStore, *steps: int) -> None:
    for step in steps:
        store.append_metrics(step, "train", {"reward_queries": step}, {"x": step / 3, "nan": float("nan")})
        store.append_samples([{"step": step, "completion": "line\u2028\nbreak \ud800"}])


def steps_of(folder: Path, name: str = "metrics.jsonl") -> list[int]:
    return [row["step"] for row in atomic_files.read_rows(folder / name)]


def test_resume_cuts_rows_back_to_the_checkpoint(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    assert store.resume() is None
    rows(store, 1, 2)
    store.save_checkpoint(2, {"at": 2})
    rows(store, 3)
    store.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "met')  # killed while writing
    assert steps_of(tmp_path) == [1, 2, 3]
    store = CellStore(tmp_path)
    assert store.resume() == {"at": 2}
    assert steps_of(tmp_path) == steps_of(tmp_path, "samples.jsonl") == [1, 2]
    rows(store, 3)
    store.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[0])["metrics"] == {"x": 1 / 3, "nan": None}


def damage_content(home: Path) -> None:
    path = home / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_length(home: Path) -> None:
    path = home / "state.json"
    path.write_bytes(path.read_bytes()[:-3])


def damage_sums(home: Path) -> None:
    (home / "checksums.json").write_text("{")


def damage_files(home: Path) -> None:
    (home / "tensors.safetensors").unlink()


@pytest.mark.parametrize("damage", [damage_content, damage_length, damage_sums, damage_files])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage: Any, tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    for step in (1, 2, 3):
        rows(store, step)
        store.save_checkpoint(step, {"at": step, "w": torch.ones(3)})
    store.close()
    home = tmp_path / "checkpoint"
    assert sorted(path.name for path in home.iterdir()) == ["000000002", "000000003"]  # older ones are pruned
    damage(home / "000000003")
    store = CellStore(tmp_path)
    assert store.resume()["at"] == 2
    assert steps_of(tmp_path) == [1, 2]
    assert [path.name for path in home.iterdir()] == ["000000002"]
    damage(home / "000000002")
    assert store.resume() is None
    store.close()
    assert steps_of(tmp_path) == []


def test_a_checkpoint_ahead_of_its_rows_is_passed_over(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    rows(store, 1)
    store.save_checkpoint(1, {"at": 1})
    store.close()
    (tmp_path / "metrics.jsonl").write_text("")
    store = CellStore(tmp_path)
    assert store.resume() is None
    store.close()


def test_a_checkpoint_that_was_passed_over_is_never_taken_up(tmp_path: Path) -> None:
    """Rows that are written again may be shorter or longer, and its lengths cut through them."""
    store = CellStore(tmp_path)
    rows(store, 1)
    store.save_checkpoint(1, {"at": 1})
    rows(store, 2)
    store.save_checkpoint(2, {"at": 2})
    store.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    store = CellStore(tmp_path)
    assert store.resume() == {"at": 1}
    store.append_metrics(2, "train", {"reward_queries": 2.000000001}, {"x": 2 / 3})
    rows(store, 3)
    store.close()
    store = CellStore(tmp_path)
    assert store.resume() == {"at": 1}
    assert steps_of(tmp_path) == [1]
    store.close()


def test_what_another_writer_left_while_one_waited_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(file: Any, seconds: float) -> None:
        (tmp_path / "records.jsonl").write_text('{"step": 1}\n')

    monkeypatch.setattr(atomic_files, "lock", lock)
    store = CellStore(tmp_path)
    assert store.resume() is None
    store.close()
    assert (tmp_path / "records.jsonl").read_text() == ""


def test_files_are_closed_where_they_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    store = CellStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.close()
    CellStore(tmp_path).close()  # it holds the lock no longer


def test_a_failed_checkpoint_leaves_the_last_one(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.save_checkpoint(1, {"at": 1})
    with pytest.raises(UserError):
        store.save_checkpoint(2, {"at": object()})
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["000000001"]
    assert store.resume() == {"at": 1}
    store.close()


def test_status_round_trip_and_absence(tmp_path: Path) -> None:
    assert Status.read(tmp_path / "none") == Status()
    status = Status("failed", error="x", traceback="y\nz", attempts=2, seconds=1.5, started="a", ended="b")
    status.write(tmp_path)
    assert Status.read(tmp_path) == status
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_replacing_a_file_leaves_the_old_one_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    atomic_files.write_json(path, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_files.write_json(path, {"a": 2})
    assert atomic_files.read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_child_that_a_reward_has_forked_holds_no_lock(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    rows(store, 1)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        store.close()
        CellStore(tmp_path).close()  # would wait a minute, and give up
        assert steps_of(tmp_path) == [1]
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)


def saved(folder: Path, identity: str, *steps: int) -> None:
    """A cell with one row and one checkpoint for each step."""
    with closing(CellStore(folder, identity)) as store:
        for step in steps:
            rows(store, step)
            store.save_checkpoint(step, {"at": step})


def resumed(folder: Path, identity: str = "a") -> tuple[Any, str | None]:
    """The state that a cell resumes from, and what it says of what it could not use."""
    with closing(CellStore(folder, identity)) as store:
        return store.resume(), store.passed_over


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_rows_changed_before_a_checkpoint_start_the_cell_again(name: str, tmp_path: Path) -> None:
    saved(tmp_path, "a", 1, 2)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"step": 1', b'"step": 7'))  # of equal length
    assert resumed(tmp_path) == (None, f"{name} is not as checkpoint 1 left it")
    assert steps_of(tmp_path) == steps_of(tmp_path, "samples.jsonl") == []


def test_rows_changed_between_two_checkpoints_leave_the_first(tmp_path: Path) -> None:
    saved(tmp_path, "a", 1, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step": 2', b'"step": 7'))
    assert resumed(tmp_path) == ({"at": 1}, "metrics.jsonl is not as checkpoint 2 left it")
    assert steps_of(tmp_path) == [1]


def test_other_line_ends_start_the_cell_again(tmp_path: Path) -> None:
    saved(tmp_path, "a", 1)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert resumed(tmp_path)[0] is None


def test_another_cells_checkpoint_is_not_taken_up(tmp_path: Path) -> None:
    saved(tmp_path, "a", 1)
    assert resumed(tmp_path, "b") == (None, "checkpoint 1 is another cell's")


def test_rows_are_hashed_across_attempts(tmp_path: Path) -> None:
    saved(tmp_path, "a", 1)
    with closing(CellStore(tmp_path, "a")) as store:
        rows(store, 2)
        assert store.resume() == {"at": 1}
        rows(store, 2)
        store.append_records([{"step": 2}])
        store.save_checkpoint(2, {"at": 2})
    assert resumed(tmp_path) == ({"at": 2}, None)
    assert steps_of(tmp_path, "records.jsonl") == [2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"status": "done", "attempts": "x", "seconds": [], "sums": 3, "error": {}}', Status("done")),
        ('{"status": 5, "attempts": 2}', Status(attempts=2)),
        ('{"status": "done", "attempts": true, "seconds": 1e999, "sums": {"metrics.jsonl": 1}}', Status("done")),
        ('{"status": "unheard of", "attempts": -1, "seconds": 2}', Status(seconds=2)),
        ("[1]", Status()),
    ],
)
def test_a_status_of_wrong_types_is_read_as_far_as_it_goes(text: str, expected: Status, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(text)
    assert Status.read(tmp_path) == expected


def test_done_without_checksums_is_not_done(tmp_path: Path) -> None:
    assert not Status("done").is_done(tmp_path)
    assert Status("done", sums={}).is_done(tmp_path)


def test_a_folder_in_a_checkpoint_is_damage(tmp_path: Path) -> None:
    saved(tmp_path, "a", 1, 2)
    (tmp_path / "checkpoint" / "000000002" / "more").mkdir()
    assert resumed(tmp_path) == ({"at": 1}, "checkpoint 2 is damaged")


@pytest.mark.parametrize(
    "forged", ['{"a": 1}', "[]", '{"cell": "a", "rows": {"metrics.jsonl": 3}, "state": {}}', "[" * 9999]
)
def test_a_forged_checkpoint_is_passed_over(forged: str, tmp_path: Path) -> None:
    saved(tmp_path, "a", 1)
    home = tmp_path / "checkpoint" / "000000001"
    (home / "state.json").write_text(forged)
    sums = {name: value for name, value in atomic_files.checksums(home).items() if name != "checksums.json"}
    (home / "checksums.json").write_text(json.dumps(sums))
    state, problem = resumed(tmp_path)
    assert state is None
    assert problem is not None
    assert problem.startswith("checkpoint 1 is damaged (")
