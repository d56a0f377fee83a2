"""What a run could have shown, in the verdict."""

import math

import numpy as np
import pytest

from bakeoff.reports import Results
from bakeoff.reports.analysis.detectable import detectable, parts
from bakeoff.reports.analysis.verdict import answers
from bakeoff.reports.data.text import number
from bakeoff.reports.statistics.power import Components, detectable_difference, seeds_needed


def _run(tmp_path, synthetic, scores, error=0.02, metric="objective"):
    run = tmp_path / "run"
    planned = [("t", label, seed) for label, values in scores.items() for seed in range(len(values))]
    synthetic.write_manifest(run, suite={"name": "s"}, planned=planned, tasks={"t": {"kl_coef": 0.1}})
    for _, label, seed in planned:
        value = scores[label][seed]
        synthetic.write_cell(
            run, "t", label, seed, evaluate={"completions": 64},
            final={"proxy": value, "kl": 0.5, metric: value} | ({"objective_within_se": error} if metric == "objective" else {}),
        )  # fmt: skip
    return Results.load(run)


def test_verdict_says_what_the_seeds_can_show(tmp_path, synthetic):
    scores = {"a": [0.5, 0.6, 0.7], "b": [0.45, 0.55, 0.65], "c": [0.1, 0.2, 0.3]}
    results = _run(tmp_path, synthetic, scores)
    details = answers(results, results.leaderboard())[0].details
    smallest = detectable_difference((0.01, 0.01), (3, 3), 3)
    needed = seeds_needed(0.05, (0.01, 0.01), 3)
    assert (
        f"What 3 seeds can show: a difference of {number(smallest)} between two contestants is found with 80 % power "
        f"(5 % error over 2 comparisons), a smaller one less often; a's lead over b, 0.050, would need about {needed} "
        "seeds if it is real."
    ) in details
    assert (  # .02 squared of .01
        "Scores scatter between seeds with a standard deviation of 0.100: about 96 % of the variance is training, 4 % evaluation "
        "sampling with 64 completions."
    ) in details


def test_scores_that_agree_are_no_certainty(tmp_path, synthetic):
    """The evaluation's error stands where the seeds show none: four completions of a yes/no reward."""
    results = _run(tmp_path, synthetic, {"a": [1.0, 1.0], "b": [0.5, 0.5]}, error=0.25)
    sentence, scatter = detectable(results, "t", "a", ["b"])
    assert f"a difference of {number(detectable_difference((0.0625, 0.0625), (2, 2)))} between" in sentence
    assert "(5 % error)" in sentence
    assert f"a's lead over b, 0.500, would need about {seeds_needed(0.5, (0.0625, 0.0625))} seeds" in sentence
    assert scatter == (
        "Scores scatter between seeds with a standard deviation of 0.000, no more than evaluation sampling with 64 completions "
        "explains (0.250)."
    )


@pytest.mark.parametrize("scores", [{"a": [0.5], "b": [0.4]}, {"a": [0.5, 0.5], "b": [0.4, 0.4]}])
def test_nothing_is_said_where_nothing_scatters(tmp_path, synthetic, scores):
    assert detectable(_run(tmp_path, synthetic, scores, metric="normalized_score"), "t", "a", ["b"]) == []


def test_equal_and_tiny_leads(tmp_path, synthetic):
    scores = {"a": [0.5, 0.7], "b": [0.7, 0.5], "c": [0.5, 0.7 - 1e-6]}
    results = _run(tmp_path, synthetic, scores, metric="normalized_score")
    assert "lead" not in detectable(results, "t", "a", ["b"])[0]
    assert "would need more than 10,000 seeds" in detectable(results, "t", "a", ["c"])[0]
    assert "all of it from training: evaluation is exact" in detectable(results, "t", "a", ["b"])[1]


def test_unknown_parts_are_said():
    assert "too few texts are stored" in parts(Components(0.04, math.nan, 64, 4, 0.04))
    assert np.isnan(Components(0.04, math.nan, 64, 4, 0.04).evaluation_share)
