from __future__ import annotations

import numpy as np
import pytest

from bakeoff.envs.tasks.prompts import PromptSet, load_prompts
from bakeoff.envs.text_generation.prompt_order import PromptOrder, PromptOrders
from bakeoff.errors import PromptError, UserError


def test_a_text_file_holds_one_prompt_a_line_taken_as_it_is(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes("\ufeffThe film \r\n\r\n  was\u2028good\r\n".encode())
    evaluation = tmp_path / "evaluation.txt"
    evaluation.write_text("Another\n")
    prompts = load_prompts(path, evaluation)
    assert prompts.train == ("The film ", "  was\u2028good")
    assert prompts.evaluation == ("Another",)


def test_a_jsonl_file_brings_columns(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "a", "label": 1}\n{"prompt": "b"}\n')
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text('{"prompt": "c", "label": 3}\n')
    prompts = load_prompts(path, evaluation)
    assert prompts.of_split("train") == (("a", "b"), {"label": (1, None)})
    assert prompts.of_split("evaluation") == (("c",), {"label": (3,)})


def test_part_of_one_file_is_held_out_and_copies_stay_together(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f'{{"prompt": "p{n % 10}", "n": {n}}}\n' for n in range(20)))
    prompts = load_prompts(path, evaluation_fraction=0.3, seed=1)
    assert len(prompts.evaluation) == 6  # 3 of 10 distinct prompts, each twice
    assert len(prompts.train) == 14
    assert not set(prompts.train) & set(prompts.evaluation)
    for split in ("train", "evaluation"):
        texts, columns = prompts.of_split(split)
        assert all(f"p{n % 10}" == text for text, n in zip(texts, columns["n"], strict=True))
    assert prompts == load_prompts(path, evaluation_fraction=0.3, seed=1)
    assert prompts != load_prompts(path, evaluation_fraction=0.3, seed=2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "does not exist"),
        ("empty.txt", b"\n  \n", "is empty"),
        ("latin.txt", "caf\u00e9".encode("latin-1"), r"not UTF-8 \(byte 3\)"),
        ("bad.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ("BAD.JSONL", b'{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ("long.jsonl", b'{"prompt": "a", "n": ' + b"1" * 5000 + b"}", "line 1: not JSON .Exceeds the limit"),
        ("deep.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("one.json", b'[{"prompt": "a"}]', "one JSON value; write one object per line in a .jsonl file"),
        ("number.jsonl", b'{"prompt": 3}', 'line 1: expected an object with a text under "prompt"'),
        ("list.jsonl", b'["a"]', 'line 1: expected an object with a text under "prompt"'),
        ("blank.jsonl", b'{"prompt": " "}', 'line 1: expected an object with a text under "prompt"'),
        ("clash.jsonl", b'{"prompt": "a", "completions": 1}', 'column "completions"'),
        ("one.txt", b"alone\n", "holds one prompt only"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PromptError, match=message) as caught:
        load_prompts(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_is_no_prompt_file(tmp_path):
    with pytest.raises(PromptError, match="cannot be read"):
        load_prompts(tmp_path)


def test_splits_must_not_share_a_prompt(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"shared\nonly in {name}\n")
    with pytest.raises(PromptError, match=r"a\.txt and .*b\.txt share the prompt 'shared'"):
        load_prompts(tmp_path / "a.txt", tmp_path / "b.txt")
    with pytest.raises(PromptError, match="share the prompt 'y' and 1 more"):
        PromptSet(("x", "y", "z"), ("z", "y"))
    assert PromptSet(("x",), ("x",), allow_overlap=True).evaluation == ("x",)


def test_a_prompt_set_refuses_what_makes_no_sense():
    with pytest.raises(PromptError, match="no evaluation prompts"):
        PromptSet(("x",), ())
    with pytest.raises(PromptError, match="sequence of strings"):
        PromptSet("xyz", ("a",))
    with pytest.raises(PromptError, match='column "label" has 1 values for 2 train prompts'):
        PromptSet(("x", "y"), ("z",), {"train": {"label": (1,)}})
    with pytest.raises(PromptError, match='no split "test"'):
        PromptSet(("x",), ("z",)).of_split("test")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_the_held_out_fraction_is_between_0_and_1(tmp_path, fraction):
    (tmp_path / "p.txt").write_text("a\nb\n")
    with pytest.raises(PromptError, match="evaluation_fraction"):
        load_prompts(tmp_path / "p.txt", evaluation_fraction=fraction)


@pytest.mark.parametrize("batch", [1, 3, 7, 25])
def test_every_prompt_comes_once_an_epoch(batch):
    order = PromptOrder(7, seed=0)
    drawn = np.concatenate([order.draw(batch) for _ in range(70 // batch + 1)])[:70].reshape(10, 7)
    assert (np.sort(drawn, 1) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in drawn}) > 5  # shuffled anew


def test_the_way_an_epoch_is_cut_into_draws_does_not_matter():
    first, second = PromptOrder(7, seed=0), PromptOrder(7, seed=0)
    assert np.array_equal(first.draw(20), np.concatenate([second.draw(n) for n in (1, 6, 8, 5)]))


def test_a_saved_order_goes_on_where_it_was():
    order = PromptOrder(7, seed=0)
    order.draw(10)
    state = order.state_dict()
    ahead = order.draw(30)
    other = PromptOrder(7, seed=5)
    other.draw(3)
    other.load_state_dict(state)
    assert np.array_equal(other.draw(30), ahead)
    with pytest.raises(UserError, match="over 7 prompts, this environment has 8"):
        PromptOrder(8).load_state_dict(state)


def test_a_list_of_seeds_names_the_orders_to_restart():
    orders = PromptOrders(50, 3, shared=False)
    rows = np.arange(3)
    orders.reseed(10, rows)
    first = orders.draw(rows)
    orders.reseed([10, None, 12], rows)
    again = orders.draw(rows)
    assert again[0] == first[0]
    assert again[2] == first[2]
    assert orders.of_row(1).draw(48).tolist() == PromptOrder(50, 11).draw(50)[2:].tolist()
    with pytest.raises(UserError, match="list of 2, expected 3 numbers"):
        orders.reseed([1, 2], rows)
    with pytest.raises(UserError, match="shared"):
        PromptOrders(50, 3, shared=True).reseed([1, 2, 3], rows)
