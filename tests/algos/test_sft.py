"""Supervised fine-tuning: reading demonstrations, turning them into completions, learning them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bakeoff.algos.core.build import build
from bakeoff.algos.preference_data.encoding import encode_demonstrations, read_demonstrations
from bakeoff.algos.sft import SFT
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.errors import ConfigError

ROWS = [{"prompt": "a b", "completion": "c d"}, {"prompt": "c d", "completion": "e f g a b c"}]


def make(task: Task, **settings: Any) -> SFT:
    algorithm = build("sft", settings, task, Budget(reward_queries=1_000), 0)
    assert isinstance(algorithm, SFT)
    return algorithm


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_completion_is_closed_or_cut(exact: Task) -> None:
    # Words a..g are tokens 0..6, the end is 7, the limit five tokens.
    completions, cut = encode_demonstrations(exact.language_model, read_demonstrations(ROWS), 5)
    assert completions.prompts.tokens_BP.tolist() == [[0, 1], [2, 3]]
    assert completions.tokens_BT[0, :3].tolist() == [2, 3, 7]
    assert completions.tokens_BT[1].tolist() == [4, 5, 6, 0, 1]
    assert completions.mask_BT.tolist() == [[True, True, True, False, False], [True] * 5]
    assert cut == 1


def test_a_text_is_imitated_from_its_second_token(exact: Task) -> None:
    completions, cut = encode_demonstrations(exact.language_model, read_demonstrations([{"text": "a b c"}]), 5)
    assert completions.prompts.tokens_BP.tolist() == [[0]]
    assert completions.tokens_BT[0, :3].tolist() == [1, 2, 7]
    assert cut == 0


def test_a_file_and_a_list_say_the_same(tmp_path: Path) -> None:
    lines = [json.dumps({**row, "source": "elsewhere"}) for row in ROWS]
    path = written(tmp_path / "rows.jsonl", "\n".join(lines) + "\n\n")
    assert [row["completion"] for _, row in read_demonstrations(path)] == [row["completion"] for row in ROWS]
    assert read_demonstrations(written(tmp_path / "rows.txt", "a b c\n\nd e\n"))[1][1] == {"text": "d e"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.jsonl", None, "gone.jsonl: cannot be read: No such file or directory"),
        ("empty.jsonl", "\n", "there are none"),
        ("broken.jsonl", '{"text": "a b"}\n{"text": ', "line 2: not JSON"),
        (
            "keys.jsonl",
            '{"prompt": "a b", "completions": "c"}',
            'line 1: expected "prompt" and "completion", or "text"',
        ),
        ("blank.jsonl", '{"prompt": "a b", "completion": " "}', "line 1: expected"),
        ("list.jsonl", "[1, 2]", "line 1: expected"),
        ("short.txt", "a b\na\n", "line 2: nothing to imitate"),
        ("words.txt", "a b\na unheard\n", "line 2: the tokenizer refuses it"),
    ],
)
def test_bad_data_is_named_in_one_line(name: str, text: str | None, message: str, exact: Task, tmp_path: Path) -> None:
    path = tmp_path / name
    if text is not None:
        written(path, text)
    with pytest.raises(ConfigError) as caught:
        make(exact, data=str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8(exact: Task, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"not UTF-8 \(byte 3\)"):
        make(exact, data=str(path))


def test_without_data_there_is_nothing_to_do(exact: Task) -> None:
    with pytest.raises(ConfigError, match='sft: "data" is missing'):
        make(exact)


def test_it_ends_after_its_epochs_and_asks_no_reward(exact: Task) -> None:
    algorithm = make(exact, data=ROWS * 3, epochs=2, batch_size=5, warmup_steps=0)
    metrics = []
    while not algorithm.finished:
        metrics.append(algorithm.update())
    assert [m["epoch"] for m in metrics] == pytest.approx([5 / 6, 10 / 6, 2])  # 5 + 5 + 2 rows of 2 x 6
    assert metrics[-1]["learning_rate"] == pytest.approx(metrics[0]["learning_rate"] / 6)
    assert metrics[0]["cut_share"] == 0.5
    meter = algorithm.envs.meter
    assert (meter.reward_queries, meter.generated_tokens) == (0, 0)
    assert meter.trained_tokens > 0


def test_it_learns_the_demonstrations(exact: Task) -> None:
    algorithm = make(exact, data=ROWS, epochs=60, learning_rate_schedule="constant")
    first = algorithm.update()["nll"]
    while not algorithm.finished:
        last = algorithm.update()["nll"]
    assert last < 0.2 < 1 < first
    told, _ = encode_demonstrations(exact.language_model, read_demonstrations(ROWS), exact.max_new_tokens)
    probability = algorithm.policy.model.token_logprobs(told).sum(1).exp()
    assert torch.all(probability > 0.5)
