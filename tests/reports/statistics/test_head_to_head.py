"""Contestants on the same prompts, by hand."""

import json

import numpy as np
import pytest

from bakeoff.reports import Results
from bakeoff.reports.analysis.samples import prompt_cards
from bakeoff.reports.statistics.head_to_head import head_to_head, prompt_gains

SCORES = {  # by contestant and seed: proxy of two prompts, at the end
    ("reference", 0): [0.0, 0.0],
    ("reference", 1): [0.0, 1.0],
    ("good", 0): [1.0, 2.0],
    ("good", 1): [3.0, 1.0],
    ("bad", 0): [0.5, 0.0],
    ("bad", 1): [-1.0, -1.0],
}


def write(run, synthetic, gold=None):
    for (label, seed), scores in SCORES.items():
        source = "none" if label == "reference" else "online"
        final = {"proxy": float(np.mean(scores)), "kl": 0.0 if label == "reference" else 1.0, "objective": 0.0}
        folder = synthetic.write_cell(run, "t", label, seed, final=final, data_source=source, evaluations=2)
        rows = []
        for step in (0,) if label == "reference" else (0, 10):
            for prompt, score in enumerate(scores):
                proxy = SCORES["reference", seed][prompt] if step == 0 else score
                row = {"step": step, "prompt": f"p{prompt}", "prompt_index": prompt}
                row |= {"completion": f"{label} says says says", "proxy": proxy, "kl": 0.0 if step == 0 else 1.0}
                rows.append(row | {"gold": None if gold is None else gold * proxy})
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    synthetic.write_manifest(run, suite={}, planned=[("t", *key) for key in SCORES], tasks={})
    return Results.load(run)


def test_pairs_meet_on_the_same_prompt_and_seed(tmp_path, synthetic):
    found = head_to_head(write(tmp_path, synthetic), "t")
    assert list(found.labels) == ["good", "reference", "bad"]
    assert found.judge == "proxy"
    assert found.games.tolist() == [[0, 4, 4], [4, 0, 4], [4, 4, 0]]
    # good against the reference: 1>0, 2>0, 3>0, 1=1; the reference against bad: 0<.5, 0=0, 0>-1, 1>-1.
    np.testing.assert_allclose(found.rates[0], [np.nan, 3.5 / 4, 1])
    np.testing.assert_allclose(found.rates[1], [0.5 / 4, np.nan, 2.5 / 4])
    assert found.errors[0, 1] == pytest.approx(np.sqrt((3 * 0.125**2 + 0.375**2) / 3 / 4))
    assert found.errors[0, 2] == 0
    assert found.overall()[0] == (7.5 / 8, 8)
    assert found.ratings[1] == 0  # the reference
    assert found.ratings[0] > 0 > found.ratings[2]


def test_the_rating_is_the_maximum_of_the_likelihood(tmp_path, synthetic):
    found = head_to_head(write(tmp_path, synthetic), "t")
    wins = np.nan_to_num(found.rates) * found.games + 0.5 * (1 - np.eye(3))  # and one imaginary tie each
    expected = 1 / (1 + np.exp(found.ratings[None, :] - found.ratings[:, None]))
    np.testing.assert_allclose(((wins + wins.T) * expected).sum(1), wins.sum(1), atol=1e-6)


def test_gold_judges_where_it_is_known(tmp_path, synthetic):
    found = head_to_head(write(tmp_path, synthetic, gold=-1.0), "t")
    assert found.judge == "gold"
    assert found.labels[0] == "bad"


def test_one_contestant_meets_nobody(tmp_path, synthetic):
    synthetic.write_cell(tmp_path, "t", "a", 0, final={"proxy": 1.0, "kl": 1.0})
    synthetic.write_manifest(tmp_path, suite={}, planned=[("t", "a", 0)], tasks={})
    assert head_to_head(Results.load(tmp_path), "t") is None


def test_gains_are_over_the_reference_on_that_prompt(tmp_path, synthetic):
    gains = prompt_gains(write(tmp_path, synthetic), "t")
    # The reference scores 0 on p0 and (0 + 1) / 2 on p1; good (1 + 3) / 2 and (2 + 1) / 2.
    assert sorted(gains.to_numpy().tolist()) == [
        ["bad", 0, -0.25],
        ["bad", 1, -1.0],
        ["good", 0, 2.0],
        ["good", 1, 1.0],
    ]
    assert prompt_gains(Results.load(tmp_path), "t", "gold").empty


def test_suspicion_is_what_the_proxy_gained_and_gold_did_not(tmp_path, synthetic):
    results = write(tmp_path, synthetic, gold=-1.0)
    spread = np.std([0, 0, 0, 1] * 3, ddof=1)  # the reference's answers: its own and two first evaluations
    card = prompt_cards(results, "t")[0]
    assert [answer.label for answer in card.answers] == ["reference", "good", "bad"]
    np.testing.assert_allclose([a.suspicion for a in card.answers], [0, 2 / spread, 1 / spread])
    assert card.suspicion == pytest.approx(2 / spread)


def test_without_gold_repetition_is_what_is_suspected(tmp_path, synthetic):
    card = prompt_cards(write(tmp_path, synthetic), "t")[0]
    # All texts repeat one of three word pairs, the reference's too: nothing rose.
    assert [answer.suspicion for answer in card.answers] == [0, 0, 0]
