"""The parts of the scatter between seeds, from run folders whose parts are known."""

import math

import numpy as np
import pandas as pd
import pytest

from bakeoff.reports import Results
from bakeoff.reports.statistics.scatter import scatter, within_prompts

TRAINING, COMPLETION, PROMPTS, COMPLETIONS = 0.2, 1.6, 16, 64
"""Deviations of the true score over seeds and of one completion's value; 64 completions of 16 prompts."""


@pytest.fixture
def two_level(tmp_path, synthetic):
    """A writer of run folders whose scores have known parts; prompts differ widely, which is no scatter between seeds."""

    def write(name, seeds, stored, *, error=True, prompts=PROMPTS, labels=("a", "b", "c"), training=TRAINING):
        rng = np.random.default_rng(5)
        run = tmp_path / name
        difficulty = rng.normal(0, 3, prompts)
        planned = [("t", label, seed) for label in (*labels, "fixed") for seed in range(seeds)]
        synthetic.write_manifest(
            run, suite={"name": "s"}, planned=planned, tasks={"t": {"kl_coef": 0.1, "evaluation_prompts": prompts}}
        )
        for _, label, seed in planned:
            learns = label != "fixed"
            rows = np.arange(COMPLETIONS) % prompts
            values = (
                rng.normal(0, training if learns else 0) + difficulty[rows] + rng.normal(0, COMPLETION, COMPLETIONS)
            )
            kl = 2.0 if learns else 0.0
            folder = synthetic.write_cell(
                run,
                "t",
                label,
                seed,
                final={"proxy": values.mean() + 0.1 * kl, "kl": kl, "objective": values.mean()}
                | ({"objective_within_se": COMPLETION / math.sqrt(COMPLETIONS)} if error else {}),
                data_source="online" if learns else "none",
                evaluations=2,
                texts=["x"] * stored,
                evaluate={"completions": COMPLETIONS, "samples": stored},
                scores=(values + 0.1 * kl, np.full(COMPLETIONS, kl), rows),
            )
            assert folder.is_dir()
        return Results.load(run)

    return write


def test_parts_are_recovered(two_level):
    found = scatter(two_level("many", 60, 0), "t")
    assert found.learners == ["a", "b", "c"]
    assert found.contestants == 4
    learner, fixed = found.pooled["a"], found.pooled["fixed"]
    assert learner == found.pooled["b"] == found.pair[0] == found.pair[1]
    assert learner.completions == COMPLETIONS
    # A variance of .08 from 177 degrees of freedom is known to .0085.
    assert learner.training == pytest.approx(0.04, abs=3 * 0.0085)
    assert learner.evaluation == pytest.approx(0.04)
    assert fixed.training < 3 * 0.04 * math.sqrt(2 / 59)
    assert found.own["a"].freedom == 59


def test_stored_samples_show_the_error_where_rows_have_none(two_level):
    """Whether a prompt is answered once per seed (the additive table) or four times; prompts' own means do not count."""
    for name, prompts in (("once", 64), ("often", 16)):
        found = scatter(two_level(name, 12, 64, error=False, prompts=prompts), "t")
        freedom = 3 * 11 * 63 if name == "once" else 3 * 12 * 48
        assert found.pooled["a"].evaluation == pytest.approx(0.04, rel=4 * math.sqrt(2 / freedom))


def test_too_few_samples_leave_it_unknown(two_level):
    found = scatter(two_level("few", 3, 1, error=False, prompts=1), "t")
    assert math.isnan(found.pooled["a"].evaluation)
    assert found.pooled["a"].total > 0


def test_one_seed_has_no_scatter(two_level):
    assert scatter(two_level("one", 1, 8), "t") is None


def test_exact_scores(results):
    found = scatter(results, "exact")
    assert found.metric == "normalized_score"
    assert found.pooled["ppo"].evaluation == 0
    assert found.pooled["ppo"].training == pytest.approx((2 * 1e-4 + 1 * 2e-4) / 3)  # ppo .95 .96 .97, dpo .69 and .71
    assert found.pooled["reference"].total == 0


def test_within_prompts_by_hand():
    table = pd.DataFrame({"seed": [0, 0, 1, 1], "prompt_index": [0, 1, 0, 1], "value": [0.0, 5.0, 1.0, 8.0]})
    # Less row and column means every residual is .5: four squares of .25 over (2 - 1)(2 - 1).
    assert within_prompts(table) == pytest.approx(1.0)
    twice = pd.concat([table, table.assign(value=table["value"] + 2)])
    assert within_prompts(twice) == pytest.approx(2.0)
    assert math.isnan(within_prompts(table[table["seed"] == 0]))
    assert math.isnan(within_prompts(table.assign(value=[0.0, math.nan, 1.0, 8.0])))
