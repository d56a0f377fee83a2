"""Contestants on the same prompts, by hand."""

import json

import numpy as np
import pytest

from bakeoff.errors import UserError
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


def test_pairs_meet_on_the_same_prompt_under_different_seeds(tmp_path, synthetic):
    found = head_to_head(write(tmp_path, synthetic), "t")
    assert list(found.labels) == ["good", "reference", "bad"]
    assert found.judge == "proxy"
    assert found.games.tolist() == [[0, 4, 4], [4, 0, 4], [4, 4, 0]]
    # good's seed 0 against the reference's seed 1: 1>0, 2>1; seed 1 against seed 0: 3>0, 1>0.
    # The reference's seed 0 against bad's seed 1: 0>-1, 0>-1; seed 1 against seed 0: 0<.5, 1>0.
    np.testing.assert_allclose(found.rates[0], [np.nan, 1, 1])
    np.testing.assert_allclose(found.rates[1], [0, np.nan, 3 / 4])
    assert found.overall()[0] == (1, 8)
    assert found.ratings[1] == 0  # the reference
    assert found.ratings[0] > 0 > found.ratings[2]
    # By prompt 1/2 and 1, and by either side's seed 1 and 1/2: each variance is 1/8 over 2. Mean squares of two seeds count
    # twice what they should. Shares of the second prompt do not move and the first's are 1 and 0: interaction 1/4 over 4.
    one_way, interaction = 1 / 16, 2 * (1 / 4) / 4 / 2
    assert found.errors[1, 2] == pytest.approx(np.sqrt(one_way + 2 * one_way / 2 - interaction))
    # Where all agree, as after two prompts in a row: Beta(3, 1).
    assert found.errors[0, 1] == pytest.approx(np.sqrt(3 / (16 * 5)))
    assert found.low[0, 1] < 0.6
    assert found.high[0, 1] == 1
    assert found.low[1, 0] == 0


def test_shared_random_numbers_do_not_decide(tmp_path, synthetic):
    """The same policy under two names draws the same answers under one seed: every pair there is a tie."""
    rng = np.random.default_rng(0)
    planned = [("t", label, seed) for label in ("a", "b") for seed in range(3)]
    scores = {(seed, prompt): float(rng.normal()) for seed in range(3) for prompt in range(6)}
    for _, label, seed in planned:
        folder = synthetic.write_cell(tmp_path, "t", label, seed, final={"proxy": 0.0, "kl": 1.0}, evaluations=2)
        rows = [{"step": 10, "prompt": f"p{i}", "prompt_index": i, "proxy": scores[seed, i], "gold": None, "kl": 1.0,
                 "completion": "x"} for i in range(6)]  # fmt: skip
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    synthetic.write_manifest(tmp_path, suite={}, planned=planned, tasks={})
    found = head_to_head(Results.load(tmp_path), "t")
    assert found.rates[0, 1] == found.rates[1, 0] == 0.5
    assert found.errors[0, 1] > 0.05  # 18 answers in all; of pairs under one seed the deviation would be 0
    assert found.games[0, 1] == 6 * 3 * 2


def test_one_seed_shows_no_matrix(tmp_path, synthetic):
    for label in ("a", "b"):
        synthetic.write_cell(tmp_path, "t", label, 0, final={"proxy": 1.0, "kl": 1.0}, texts=("x", "y"))
    synthetic.write_manifest(tmp_path, suite={}, planned=[("t", "a", 0), ("t", "b", 0)], tasks={})
    results = Results.load(tmp_path)
    assert head_to_head(results, "t") is None
    for kind in ("win_rate_matrix", "improvement"):
        with pytest.raises(UserError, match="two finished seeds each"):
            results.plot(kind)


def test_the_rating_is_the_maximum_of_the_likelihood(tmp_path, synthetic):
    found = head_to_head(write(tmp_path, synthetic), "t")
    wins = np.nan_to_num(found.rates) * 4 + 0.5 * (1 - np.eye(3))  # and one imaginary tie each
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
