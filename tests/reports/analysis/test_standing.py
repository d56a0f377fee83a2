"""What the verdict claims, and what it does not."""

import pytest

from bakeoff.reports import Results
from bakeoff.reports.analysis.verdict import answers
from bakeoff.reports.statistics.findings import against_reference, comparisons


@pytest.fixture
def write(tmp_path, synthetic):
    """Write a run of one task from ``label -> one dict of final metrics a seed``, and read it."""

    def write(contestants, completions=64):
        planned = []
        for label, seeds in contestants.items():
            for seed, final in enumerate(seeds):
                planned.append(("reviews", label, seed))
                synthetic.write_cell(
                    tmp_path, "reviews", label, seed, final=final, evaluate={"completions": completions},
                    data_source="none" if label == "reference" else "online",
                )  # fmt: skip
        suite = {"algorithms": {label: {} for label in contestants}}
        synthetic.write_manifest(tmp_path, suite=suite, planned=planned, tasks={})
        return Results.load(tmp_path)

    return write


def scored(*values, error=0.05, **more):
    return [{"objective": v, "objective_se": error, "proxy": v, "proxy_se": error, "kl": 1.0, **more} for v in values]


def verdict(results):
    (answer,) = answers(results, results.leaderboard())
    return answer


def test_seeds_that_agree_on_a_yes_or_no_claim_nothing(write):
    results = write({"a": scored(1.0, 1.0, error=0.0), "b": scored(0.5, 0.5, error=0.289)}, completions=4)
    assert verdict(results).headline.startswith("a scored highest, but is not told apart from b: ")
    (row,) = comparisons(results, "reviews").to_dict("records")
    assert row["finding"] == "level"
    assert row["p"] > 0.05


def test_ahead_of_some_and_not_of_others(write):
    spread = (-0.01, 0.0, 0.01)
    results = write({
        "a": scored(*(0.9 + x for x in spread), error=0.01),
        "b": scored(*(0.89 + x for x in spread), error=0.01),
        "c": scored(*(0.2 + x for x in spread), error=0.01),
    })  # fmt: skip
    answer = verdict(results)
    assert answer.headline.startswith("a scored highest, ahead of c beyond noise; not told apart from b: ")
    assert any(line.startswith("Beyond noise: ahead of c by 0.700 (") for line in answer.details)
    (level,) = (line for line in answer.details if line.startswith("Not told apart: b by 0.010"))
    assert "`--seeds 6`" in level


def test_nothing_is_claimed_on_the_strength_of_a_bound(write):
    spread = (-0.001, 0.0, 0.001)
    best, bound = (scored(*(level + x for x in spread), error=0.001) for level in (0.5, 0.4))
    results = write({"a": best, "best_of_n": [{**final, "kl_is_bound": 1.0} for final in bound]})
    answer = verdict(results)
    assert answer.headline.startswith("a scored highest, but is not told apart from best_of_n")
    assert any("the KL there is only an upper bound" in line for line in answer.details)


def test_a_lead_of_the_one_whose_score_is_a_lower_bound_is_one(write):
    spread = (-0.001, 0.0, 0.001)
    bound, other = (scored(*(level + x for x in spread), error=0.001) for level in (0.5, 0.4))
    results = write({"best_of_n": [{**final, "kl_is_bound": 1.0} for final in bound], "a": other})
    assert verdict(results).headline.startswith("best_of_n scored highest, ahead of the other one beyond noise")


def test_equal_scores_are_called_equal(write):
    answer = verdict(write({"zeta": scored(0.3, 0.5), "alpha": scored(0.5, 0.3), "low": scored(0.1, 0.0)}))
    assert answer.headline.startswith("zeta and alpha scored the same and highest, not told apart from low: ")


def test_all_equal(write):
    answer = verdict(write({"zeta": scored(0.3, 0.5), "alpha": scored(0.5, 0.3)}))
    assert answer.headline.startswith("All contestants scored the same: objective")


def test_one_reward_for_everything_is_one_sentence(write):
    answer = verdict(write({"a": scored(0.0, 0.0, error=0.0), "b": scored(0.0, 0.0, error=0.0)}))
    assert answer.headline.startswith("Every judged completion got the same reward, 0.000: it separates no contestant")
    assert not any("told apart" in line or "noise" in line for line in answer.details)


def test_above_and_below_the_reference(write):
    spread = (-0.01, 0.0, 0.01)
    reference = [{**final, "kl": 0.0, "trained_tokens": 0.0} for final in scored(0.18, 0.18, 0.18, error=0.01)]
    results = write({
        "reference": reference,
        "up": scored(*(0.9 + x for x in spread), error=0.01),
        "dpo": scored(*(-0.45 + x for x in spread), error=0.01),
        "same": scored(*(0.19 + x for x in spread), error=0.01),
    })  # fmt: skip
    found = against_reference(results, "reviews").set_index("other")["finding"].to_dict()
    assert found == {"up": "above", "same": "level", "dpo": "below"}
    assert (
        "Above the reference beyond noise: up (+0.720); below the reference beyond noise: dpo (-0.630); "
        "not told apart from the reference: same (+0.010)."
    ).replace("-", "−") in [line.replace("-", "−") for line in verdict(results).details]


def test_gold_is_in_the_verdict(write):
    spread = (-0.001, 0.0, 0.001)
    golds = {"best_of_n": 0.184, "reference": 0.211, "rloo": 0.314}
    scores = {"best_of_n": 0.9, "reference": 0.1, "rloo": 0.5}
    results = write({
        label: [
            {**final, "gold": golds[label] + x, "gold_se": 0.01, "kl": 0.0 if label == "reference" else 1.0}
            for x, final in zip(spread, scored(*(scores[label] + x for x in spread), error=0.001), strict=True)
        ]
        for label in scores
    })  # fmt: skip
    details = verdict(results).details
    assert "By gold, which no contestant saw: rloo 0.314, reference 0.211 and best_of_n 0.184." in details
    assert "By gold best_of_n shows no gain over the reference (−0.027)." in details
