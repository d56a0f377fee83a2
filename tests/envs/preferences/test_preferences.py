from __future__ import annotations

import gzip
import itertools
import json
import os
from pathlib import Path

import pytest
import torch

from bakeoff.algos.preference_data.labels import label_pairs
from bakeoff.algos.preference_data.pair_source import make_pairs
from bakeoff.envs.preferences.formats import pair_of, transcript, transcript_messages
from bakeoff.envs.preferences.load import Message, Pairs, PreferencePair, folds_by_prompt, load_pairs, split_by_prompt
from bakeoff.errors import PreferenceError

USER = {"role": "user", "content": "Which color?"}
RED, BLUE = ({"role": "assistant", "content": text} for text in ("Red.", "Blue."))
HH = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: A joke\n\nAssistant:"


def row(n: int = 0) -> dict[str, str]:
    return {"prompt": f"Question {n}:", "chosen": " good", "rejected": " bad"}


def write(path: Path, *rows: object) -> Path:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("given", "prompt", "chosen", "rejected"),
    [
        (row(), "Question 0:", " good", " bad"),
        # the prompt is what both begin with, up to a whole word
        ({"chosen": "The sky is blue.", "rejected": "The sky is black."}, "The sky is", " blue.", " black."),
        ({"chosen": "The sky is", "rejected": "The sky is blue"}, "The sky", " is", " is blue"),
        ({"chosen": HH + " Knock", "rejected": HH + " Knock knock"}, HH, " Knock", " Knock knock"),
        ({"prompt": HH, "chosen": HH + " Yes", "rejected": HH + " No"}, HH, " Yes", " No"),
        (
            {"prompt": [USER], "chosen": [RED], "rejected": [BLUE]},
            (Message("user", "Which color?"),),
            "Red.",
            "Blue.",
        ),
        ({"chosen": [USER, RED], "rejected": [USER, BLUE]}, (Message("user", "Which color?"),), "Red.", "Blue."),
        (
            {"prompt": "Which color?", "chosen": [USER, RED], "rejected": [USER, BLUE]},
            (Message("user", "Which color?"),),
            "Red.",
            "Blue.",
        ),
        (
            {"prompt": "Which color?", "chosen": [RED], "rejected": [BLUE]},
            (Message("user", "Which color?"),),
            "Red.",
            "Blue.",
        ),
        (
            {"prompt": [USER], "chosen": "Red.", "rejected": "Blue."},
            (Message("user", "Which color?"),),
            "Red.",
            "Blue.",
        ),
        ({"prompt": "p", "response_0": "a", "response_1": "b", "preferred": 1}, "p", "b", "a"),
    ],
)
def test_every_format_gives_prompt_and_answers(given, prompt, chosen, rejected):
    assert pair_of(given) == PreferencePair(prompt, chosen, rejected)
    assert load_pairs([given])[0] == PreferencePair(prompt, chosen, rejected)


def test_a_margin_comes_along():
    assert load_pairs([{**row(), "margin": 2}])[0].margin == 2.0


def test_files_plain_and_compressed_and_with_a_byte_order_mark(tmp_path):
    plain = write(tmp_path / "a.jsonl", row(1), "", row(2))
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    marked = tmp_path / "c.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert list(load_pairs(plain)) == list(load_pairs(packed)) == list(load_pairs(marked))
    assert [pair.prompt for pair in load_pairs(plain)] == ["Question 1:", "Question 2:"]


def test_what_is_saved_loads_again(tmp_path):
    pairs = load_pairs([row(), {**row(1), "margin": 0.5}, {"chosen": [USER, RED], "rejected": [USER, BLUE]}])
    for name in ("a.jsonl", "a.jsonl.gz"):
        pairs.save(tmp_path / name)
        assert list(load_pairs(tmp_path / name)) == list(pairs)


@pytest.mark.slow  # importing datasets takes longer than all the rest
def test_a_datasets_object():
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    data = datasets.Dataset.from_list([row(1), row(2)])
    assert [pair.prompt for pair in load_pairs(data)] == ["Question 1:", "Question 2:"]
    with pytest.raises(PreferenceError, match="a mapping of train, test, not rows; choose one split"):
        load_pairs(datasets.DatasetDict({"train": data, "test": data}))


BAD = {
    "not JSON": '{"prompt": ',
    "not an object": "[1]",
    "missing keys": {"prompt": "p", "chosen": "c"},
    "wrong type": {"prompt": "p", "chosen": 1, "rejected": "r"},
    "identical sides": {"prompt": "p", "chosen": "same", "rejected": "same "},
    "empty text": {"prompt": "p", "chosen": " ", "rejected": "r"},
    "too long": {"prompt": "p", "chosen": "c" * 60_000, "rejected": "r"},
    "no shared prompt": {"chosen": "one two", "rejected": "three"},
    "no single answer": {"prompt": [USER], "chosen": [RED, USER], "rejected": [BLUE]},
}


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_row_is_counted_and_the_first_is_shown(kind, tmp_path):
    path = write(tmp_path / "pairs.jsonl", row(1), row(2), BAD[kind], row(3), BAD[kind])
    pairs = load_pairs(path, max_bad_share=0.5)
    assert len(pairs) == 3
    assert list(pairs.problems) == [kind]
    assert (pairs.problems[kind].count, pairs.skipped) == (2, 2)
    assert pairs.problems[kind].first.startswith("line 3: ")
    assert pairs.summary().startswith(f"pairs file {path}: 3 pairs; 2 rows passed over: {kind} 2 (first line 3: ")
    with pytest.raises(PreferenceError, match=r"2 of 5 rows cannot be used \(allowed: 5%\)") as caught:
        load_pairs(path)
    assert kind in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": "", "chosen": "c", "rejected": "r"},
        {"prompt": 3, "chosen": "c", "rejected": "r"},
        {"prompt": [{"role": "user"}], "chosen": "c", "rejected": "r"},
        {"prompt": "p", "chosen": "c", "rejected": "r", "margin": "much"},
        {"prompt": "p", "response_0": "a", "response_1": "b", "preferred": 2},
        {"chosen": HH, "rejected": HH},
        {"chosen": HH + " a", "rejected": "\n\nHuman: Else\n\nAssistant: b"},
        {"chosen": [USER, RED], "rejected": [USER, RED]},
        {"chosen": [RED], "rejected": [BLUE]},
        {"chosen": [], "rejected": []},
        3,
    ],
)
def test_rows_that_are_no_pairs(bad):
    with pytest.raises(PreferenceError, match="1 of 1 rows cannot be used: "):
        load_pairs([bad])


def test_a_line_of_another_encoding_is_counted(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(row()).encode() + b'\n{"prompt": "caf\xe9", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(PreferenceError, match=r"not UTF-8 1 \(first line 2: byte 15 of the line is 0xe9"):
        load_pairs(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (
            b"prompt,chosen,rejected\na,b,c\n",
            "starts with 'prompt,chosen,rejected'; it has to hold one JSON object per line",
        ),
        (b'[{"prompt": 1}]', "is one JSON array"),
        ('{"prompt": 1}'.encode("utf-16"), "is UTF-16 text"),
        (b"PAR1....", "is a Parquet file"),
        (gzip.compress(b"{}", mtime=0)[:12], "is a damaged gzip file"),
        (b"\xff\xd8\xff", "starts with"),
    ],
)
def test_files_of_the_wrong_kind(content, message, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(PreferenceError, match=message) as caught:
        load_pairs(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sources_that_are_no_rows(tmp_path):
    with pytest.raises(PreferenceError, match="does not exist"):
        load_pairs(tmp_path / "nowhere.jsonl")
    with pytest.raises(PreferenceError, match="cannot be read"):
        load_pairs(tmp_path)
    with pytest.raises(PreferenceError, match="not from int"):
        load_pairs(3)  # type: ignore[arg-type]
    with pytest.raises(PreferenceError, match="pairs is empty"):
        load_pairs([])
    with pytest.raises(PreferenceError, match="max_bad_share is 2"):
        load_pairs([row()], max_bad_share=2)


def test_a_preference_for_the_same_side_throughout_says_nothing():
    rows = [{"prompt": f"p{n}", "response_0": "a", "response_1": "b", "preferred": 0} for n in range(20)]
    with pytest.raises(PreferenceError, match="all 20 rows prefer response_0"):
        load_pairs(rows)
    assert len(load_pairs([*rows, {**rows[0], "preferred": 1}])) == 21


def test_splits_keep_a_prompt_together():
    pairs = [PreferencePair(f"p{n % 10}", f"c{n}", f"r{n}") for n in range(40)]
    folds = folds_by_prompt(pairs, 5)
    assert sorted(set(folds)) == [0, 1, 2, 3, 4]
    assert all(folds[n] == folds[n % 10] for n in range(40))
    train, judged = split_by_prompt(pairs, 0.2)
    assert (len(train), len(judged)) == (32, 8)
    assert not {p.prompt for p in train} & {p.prompt for p in judged}
    assert split_by_prompt(pairs, 0.2) == (train, judged)
    with pytest.raises(PreferenceError, match="all pairs answer one prompt"):
        split_by_prompt(pairs[:1], 0.2)
    with pytest.raises(PreferenceError, match="expected a number between 0 and 1"):
        split_by_prompt(pairs, 1)
    with pytest.raises(PreferenceError, match="10 prompts cannot be split into 11"):
        folds_by_prompt(pairs, 11)


def test_a_transcript_and_its_messages():
    messages = transcript_messages(HH)
    assert [m.role for m in messages] == ["user", "assistant", "user"]
    assert [m.content for m in messages] == ["Hi", "Yes?", "A joke"]
    assert transcript(messages) == HH


def test_pairs_are_a_sequence():
    pairs = load_pairs([row(n) for n in range(5)])
    assert isinstance(pairs[1:3], Pairs)
    assert [pair.prompt for pair in pairs[1:3]] == ["Question 1:", "Question 2:"]
    assert pairs.summary() == "pairs: 5 pairs"


def test_bradley_terry_labels_follow_the_formula():
    rewards = torch.tensor([1.5, 0.5]).expand(20_000, 2)
    generator = torch.Generator().manual_seed(0)
    # sigmoid(1 / 2) = .62246; the standard error of a share of 20,000 draws is .0034
    assert (label_pairs(rewards, "bradley_terry", 2.0, generator)[0] == 0).double().mean().item() == pytest.approx(
        0.62246, abs=0.012
    )
    assert not label_pairs(rewards, "deterministic", 2.0, generator)[0].any()


def vector(letters, num_envs, **settings):
    return letters.vector(num_envs, autoreset_mode="Disabled", shared_prompts=True, **settings)


def sampler(letters, answers):
    """Answers in turn."""
    state = itertools.cycle(answers)

    def sample(prompts, max_new_tokens, generator):
        rows = [next(state) for _ in range(len(prompts))]
        return letters.completions_of(prompts, rows, max_new_tokens)

    return sample


def test_made_pairs_are_labeled_by_the_reward_and_metered(letters):
    envs = vector(letters, 4)
    answers = [[0, 0, letters.EOS], [1, letters.EOS], [2, letters.EOS], [0, letters.EOS]]
    generator = torch.Generator().manual_seed(0)
    pairs = make_pairs(sampler(letters, answers), envs, 5, generator, labels="deterministic", margins=True)
    assert len(pairs) == 5
    assert {(p.chosen, p.rejected, round(p.margin, 6)) for p in pairs} == {("aa", "b", 2.0), ("a", "c", 1.0)}
    assert envs.meter.reward_queries == 12
    assert envs.meter.generated_tokens == 3 * 9


def test_under_bradley_terry_the_worse_answer_wins_sometimes(letters):
    answers = [[0, letters.EOS], [1, letters.EOS]]
    generator = torch.Generator().manual_seed(0)
    pairs = make_pairs(sampler(letters, answers), vector(letters, 64), 2000, generator, temperature=1.0)
    # sigmoid(1) = .73106, standard error of a share of 2,000 draws .0099
    assert sum(p.chosen == "a" for p in pairs) / 2000 == pytest.approx(0.731, abs=0.035)


def test_by_default_the_temperature_is_measured(letters):
    answers = [[0, letters.EOS], [1, letters.EOS]]
    pairs = make_pairs(sampler(letters, answers), vector(letters, 64), 2000, torch.Generator().manual_seed(0))
    # All differences are equal, so .88 of labels are expected to be right; standard error .0073
    assert sum(p.chosen == "a" for p in pairs) / 2000 == pytest.approx(0.88, abs=0.022)
    with pytest.raises(PreferenceError, match='temperature above 0 or "auto"'):
        make_pairs(sampler(letters, answers), vector(letters, 4), 5, torch.Generator(), temperature="warm")


def test_answers_that_nothing_tells_apart_make_no_pairs(letters):
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(PreferenceError, match=r"no pair in 20 rounds \(40 times both answers were equal, 0 times"):
        make_pairs(sampler(letters, [[0, letters.EOS]]), vector(letters, 4), 5, generator)
    with pytest.raises(PreferenceError, match=r'40 times reward "flat" scored them alike'):
        make_pairs(
            sampler(letters, [[0, letters.EOS], [1, letters.EOS]]),
            vector(letters, 4, reward=lambda completions: [0.0] * len(completions), reward_name="flat"),
            5, generator, labels="deterministic",
        )  # fmt: skip
    with pytest.raises(PreferenceError, match="an even number"):
        make_pairs(sampler(letters, []), vector(letters, 3), 5, generator)


def test_real_transcripts():
    folder = os.environ.get("BAKEOFF_TEST_DATA")
    path = Path(folder) / "hh-harmless" / "pairs-1200.jsonl.gz" if folder else None
    if path is None or not path.is_file():
        pytest.skip("BAKEOFF_TEST_DATA names no folder with hh-harmless in it")
    pairs = load_pairs(path)
    assert (len(pairs), pairs.skipped) == (1200, 0)
    assert all(isinstance(p.prompt, str) and p.prompt.endswith("\n\nAssistant:") for p in pairs)
