"""The leaderboard's numbers against the ones that the synthetic run was built from."""

import io

import numpy as np
import pandas as pd
import pytest

from bakeoff.errors import UserError
from bakeoff.reports import Results
from bakeoff.reports.analysis.verdict import answers, caveats, suspicions
from bakeoff.reports.page.tables import csv, latex
from bakeoff.reports.statistics.findings import comparisons
from bakeoff.reports.statistics.leaderboard import over_tasks


@pytest.fixture(scope="module")
def board(results):
    return results.leaderboard()


def row(board, task, label):
    return board[(board["task"] == task) & (board["label"] == label)].iloc[0]


def test_means_intervals_and_seeds(board):
    ppo = row(board, "exact", "ppo")
    assert (ppo["seeds"], ppo["planned"], ppo["metric"]) == (3, 3, "normalized_score")
    assert ppo["mean"] == pytest.approx((0.95 + 0.96 + 0.97) / 3)
    assert ppo["iqm"] == pytest.approx(0.96)
    assert ppo["sd"] == pytest.approx(0.01)
    # 1 of 27 resamples is all lowest: 3.7 % of them, so the 2.5 % quantile is the lowest seed.
    assert (ppo["mean_low"], ppo["mean_high"]) == pytest.approx((0.95, 0.97))
    assert ppo["proxy"] == pytest.approx(1.5 * 0.96)  # the exact reward, since it is known
    assert (ppo["reward_queries"], ppo["generated_tokens"]) == (2000, 40_000)


def test_the_failed_seed_is_in_no_mean(board):
    dpo = row(board, "exact", "dpo")
    assert (dpo["seeds"], dpo["planned"]) == (2, 3)
    assert dpo["mean"] == pytest.approx((0.69 + 0.71) / 2)


def test_contestants_are_ranked_within_their_task(board):
    assert board["task"].tolist() == ["exact"] * 4 + ["reviews"] * 4
    assert board["label"].tolist()[:4] == ["ppo", "dpo", "best_of_n", "reference"]
    reviews = row(board, "reviews", "ppo")
    kl = 4 * 0.96
    assert reviews["mean"] == pytest.approx(1.2 * 0.96 - 0.05 * kl)
    assert reviews["gold"] == pytest.approx(0.4 - 0.3 * 0.96)
    assert np.isnan(row(board, "exact", "ppo")["gold"])
    assert row(board, "exact", "best_of_n")["queries_per_answer"] == 8


def test_csv_gives_the_frame_back(board):
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(csv(board))), board, check_dtype=False)


def test_latex_escapes_names(board):
    table = latex(board)
    assert r"best\_of\_n & 3/3 & 0.600 [0.600, 0.600] & 0.600 & 2.400 & 0 \\" in table
    assert table.count(r"\begin{tabular}") == 2


def test_comparisons_with_the_best(results):
    table = comparisons(results, "exact").set_index("other")
    assert table.loc["dpo", "difference"] == pytest.approx(0.26)
    assert table.loc["dpo", "improvement"] == 1
    assert table.loc["reference", "p"] < 1e-3
    assert table["finding"].to_dict() == {"dpo": "level", "best_of_n": "ahead", "reference": "ahead"}


def test_no_score_over_tasks_without_a_common_unit(results):
    assert over_tasks(results).empty  # reviews has no normalized score


def test_score_over_tasks(tmp_path, synthetic):
    planned = [(task, label, seed) for task in ("exact", "exact-sparse") for label in ("a", "b") for seed in (0, 1)]
    for task, label, seed in planned:
        value = (0.9 if task == "exact" else 0.5) + 0.02 * seed - (0.2 if label == "b" else 0)
        synthetic.write_cell(tmp_path, task, label, seed, final={"normalized_score": value, "proxy": value, "kl": 1.0})
    synthetic.write_manifest(tmp_path, suite={}, planned=planned, tasks={})
    table = over_tasks(Results.load(tmp_path))
    assert table["label"].tolist() == ["a", "b"]
    assert table.loc[0, "iqm"] == pytest.approx((0.52 + 0.9) / 2)  # the middle two of .50 .52 .90 .92
    assert table.loc[0, "low"] < table.loc[0, "iqm"] < table.loc[0, "high"] < 0.73  # tasks are never resampled
    assert table.loc[0, "optimality_gap"] == pytest.approx(1 - (0.91 + 0.51) / 2)


def test_the_answer_says_what_the_numbers_support(results, board):
    exact, reviews = answers(results, board)
    # dpo has two seeds left, and two seeds say next to nothing about their scatter.
    assert exact.headline.startswith(
        "ppo scored highest, ahead of best_of_n and reference beyond noise; not told apart from dpo: "
    )
    assert "0.960 (95 % interval 0.950 to 0.970, 3 seeds)" in exact.headline
    assert any(
        line == "Not at default settings: best_of_n (n = 8); at defaults: ppo and dpo." for line in exact.details
    )
    assert "Not every seed counts: dpo (2 of 3); excluding failed runs may bias them upward." in exact.details
    assert suspicions(results, "exact") == []  # its completions are no language
    assert "ppo: gold fell from 0.400 to 0.112 while the proxy rose" in " ".join(reviews.details)


def test_an_overlap_is_called_one(tmp_path, synthetic):
    planned = [("exact", label, seed) for label in ("a", "b") for seed in range(3)]
    for _, label, seed in planned:
        final = {"normalized_score": 0.5 + 0.2 * seed + (0.05 if label == "a" else 0), "proxy": 1.0, "kl": 1.0}
        synthetic.write_cell(tmp_path, "exact", label, seed, final=final)
    synthetic.write_manifest(tmp_path, suite={"algorithms": {"a": {}, "b": {}}}, planned=planned, tasks={})
    results = Results.load(tmp_path)
    (answer,) = answers(results, results.leaderboard())
    assert answer.headline.startswith("a scored highest, but is not told apart from b: normalized score 0.750")
    assert "Every contestant ran at its default settings; tuning could change the order." in answer.details
    assert "75 % at 3 seeds" in " ".join(caveats(results))


def test_one_seed_claims_nothing(tmp_path, synthetic):
    for label, score in (("a", 0.9), ("b", 0.1)):
        synthetic.write_cell(tmp_path, "exact", label, 0, final={"normalized_score": score, "proxy": 1.0, "kl": 1.0})
    synthetic.write_manifest(tmp_path, suite={}, planned=[("exact", "a", 0), ("exact", "b", 0)], tasks={})
    results = Results.load(tmp_path)
    (answer,) = answers(results, results.leaderboard())
    assert "With one seed, chance cannot be ruled out." in answer.headline
    assert comparisons(results, "exact")["improvement"].isna().all()
    with pytest.raises(UserError, match="it needs two contestants with two finished seeds each"):
        results.plot("improvement")


def test_nothing_finished_says_so(tmp_path, synthetic):
    synthetic.write_manifest(tmp_path, suite={}, planned=[("exact", "a", 0)], tasks={})
    results = Results.load(tmp_path)
    (answer,) = answers(results, results.leaderboard())
    assert "No cell of this task has finished" in answer.headline
    assert results.report(tmp_path / "out").is_file()
    assert "1 cell never started, in no average: exact / a / seed 0." in caveats(results)


def test_a_cell_without_a_finite_score_is_not_averaged(tmp_path, synthetic):
    for seed, final in enumerate([{"objective": 0.5, "proxy": 0.5, "kl": 1.0}, {"proxy": 0.9, "length": 3.0}]):
        synthetic.write_cell(tmp_path, "reviews", "a", seed, final=final)
    synthetic.write_manifest(tmp_path, suite={}, planned=[("reviews", "a", 0), ("reviews", "a", 1)], tasks={})
    results = Results.load(tmp_path)
    board = results.leaderboard()
    assert board[["seeds", "planned", "mean"]].to_numpy().tolist() == [[1, 2, 0.5]]
    assert board[["proxy", "kl"]].to_numpy().tolist() == [[0.5, 1.0]]  # of the same seeds
    assert "On reviews these cells finished without a finite objective and are in no average: a / seed 1." in caveats(
        results
    )


def test_a_setting_that_is_null_is_no_default(tmp_path, synthetic):
    for label in ("ppo", "grpo"):
        synthetic.write_cell(tmp_path, "reviews", label, 0, final={"objective": 0.5, "proxy": 0.5, "kl": 1.0})
    suite = {"algorithms": {"ppo": {"algorithm": None, "value_clip": None}, "grpo": {}}}
    planned = [("reviews", "ppo", 0), ("reviews", "grpo", 0)]
    synthetic.write_manifest(tmp_path, suite=suite, planned=planned, tasks={})
    results = Results.load(tmp_path)
    (answer,) = answers(results, results.leaderboard())
    assert "Not at default settings: ppo (value_clip = null); at defaults: grpo." in answer.details
