"""``bakeoff train-reward`` as a user meets it."""

from __future__ import annotations

import json
import re

import pytest

from bakeoff.cli import main
from bakeoff.envs.preferences.load import Pairs


@pytest.fixture
def files(pairs, tmp_path):
    Pairs(pairs[:80]).save(tmp_path / "train.jsonl.gz")
    Pairs(pairs[80:]).save(tmp_path / "held_out.jsonl")
    return tmp_path


def train(*arguments):
    return main(["train-reward", *map(str, arguments)])


def test_it_trains_measures_and_saves(files, backbone, capsys):
    out = files / "rm"
    code = train(
        files / "train.jsonl.gz",
        "--model",
        backbone,
        "--out",
        out,
        "--evaluate",
        files / "held_out.jsonl",
        "--set",
        "folds=4",
    )
    said = capsys.readouterr()
    assert code == 0
    assert "80 pairs" in said.err
    where = r"on the folds left out of a 4-fold cross-validation by prompt \(80 pairs\)"
    assert re.search(rf"accuracy [01]\.\d+ .* {where}", said.out)
    assert "on the evaluation pairs (40 pairs)" in said.out
    assert "longer wins: " in said.out
    assert (out / "reliability.svg").read_text().startswith("<?xml")
    assert json.loads((out / "report.json").read_text())["evaluated"]["accuracy"]["pairs"] == 40
    # again, over the old one
    assert train(files / "train.jsonl.gz", "--model", backbone, "--out", out, "--quiet") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lora_rnak=4"], 'unknown setting "lora_rnak"; did you mean "lora_rank"?'),
        (["--set", "lora_rank"], '"lora_rank" is not KEY=VALUE'),
        (["--set", "lora_rank=0"], "lora_rank: "),
        (["--set", "learning_rate=-1"], "learning_rate is -1.0, expected a number above 0"),
        (["--evaluate", "nowhere.jsonl"], "pairs file nowhere.jsonl does not exist"),
        (["--model", "/nowhere/at/all"], 'no model folder at "/nowhere/at/all"'),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, message, files, backbone, capsys):
    code = train(files / "train.jsonl.gz", "--model", backbone, "--out", files / "rm", "--quiet", *arguments)
    said = capsys.readouterr()
    assert code == 2
    assert message in said.err
    assert said.err.count("\n") == 1


def test_a_file_of_the_wrong_kind(tmp_path, backbone, capsys):
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\n")
    assert train(tmp_path / "pairs.csv", "--model", backbone, "--out", tmp_path / "rm") == 2
    assert "it has to hold one JSON object per line" in capsys.readouterr().err
