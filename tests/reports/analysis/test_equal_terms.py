"""Contestants at equal KL, at equal cost and at gold's checkpoint, on curves made by hand."""

import json

import numpy as np
import pytest

from bakeoff.errors import NotFoundError
from bakeoff.reports import Results
from bakeoff.reports.analysis.equal_terms import at_best_gold, at_kl, at_spend, common_kls, common_spends, readings
from bakeoff.reports.page.equal_terms_section import TITLE, equal_terms_section, equal_terms_tables
from bakeoff.reports.page.report import write_report

STEPS = np.arange(5)
SLOPES = {"far": 0.5, "near": 1.0}  # proxy per nat
ENDS = {"far": (8.0, 10.0), "near": (2.0, 3.0)}  # KL by seed


def write(run, synthetic, seeds=2, gold=True):
    """Two learners on straight lines, of which one goes further, best of n and the reference."""
    planned = []
    for seed in range(seeds):
        for label, slope in SLOPES.items():
            kl = ENDS[label][seed] * STEPS / 4
            cost = {"reward_queries": 100 * STEPS, "trained_tokens": (3000 if label == "far" else 1000) * STEPS}
            # Gold peaks at evaluation 2 for far, and rises for near.
            curve = np.array([0.0, 1, 3, 2, 1]) + seed if label == "far" else STEPS + 0.0
            _cell(run, synthetic, label, seed, kl, slope * kl, cost, curve if gold else None)
            planned.append(("t", label, seed))
        for label, kl, queries in (("reference", 0.0, 0), ("best_of_n", 1.5, 64)):
            path, cost = np.array([0.0, kl]), {"reward_queries": [0, queries], "trained_tokens": [0, 0]}
            _cell(run, synthetic, label, seed, path, path * 2, cost, 0 * path + 0.5 if gold else None, source="none")
            planned.append(("t", label, seed))
    synthetic.write_manifest(run, suite={}, planned=planned, tasks={})
    return Results.load(run)


def _cell(run, synthetic, label, seed, kl, proxy, cost, gold, source="online"):
    folder = synthetic.write_cell(run, "t", label, seed, final={"proxy": 0.0}, data_source=source, evaluations=2)
    rows = []
    for k in range(len(kl)):
        metrics = {"proxy": proxy[k], "kl": kl[k], "objective": proxy[k] - 0.1 * kl[k]}
        spent = {"generated_tokens": 0, "seconds": float(k), **{name: int(values[k]) for name, values in cost.items()}}
        metrics |= {} if gold is None else {"gold": float(gold[k])}
        rows.append({"step": 10 * k, "phase": "eval", **spent, "metrics": metrics})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def results(tmp_path, synthetic):
    return write(tmp_path / "run", synthetic)


def by_label(found):
    return {reading.label: reading for reading in found}


def test_the_levels_follow_from_how_far_learners_went(results):
    assert common_kls(results, "t") == [2.0, 8.0]  # near's shorter seed; one of two learners is half
    assert common_spends(results, "t") == {"reward_queries": 400, "trained_tokens": 4000, "seconds": 4}


def test_at_equal_kl(results):
    found = by_label(at_kl(results, "t", 2.0))
    assert (found["far"].value, found["near"].value) == pytest.approx((1.0, 2.0))
    assert found["far"].low == pytest.approx(1.0)  # both seeds lie on one line
    assert found["far"].kind == "path"
    # Without a path: the point where it stands.
    assert (found["best_of_n"].kind, found["best_of_n"].value, found["best_of_n"].kl) == ("point", 3.0, 1.5)
    assert (found["reference"].kind, found["reference"].value, found["reference"].kl) == ("point", 0.0, 0.0)


def test_a_kl_that_some_seed_never_reached_has_no_value(results):
    found = by_label(at_kl(results, "t", 2.5))
    assert (found["near"].kind, found["near"].reached, found["near"].seeds) == ("not reached", 1, 2)
    assert np.isnan(found["near"].value)
    assert by_label(at_kl(results, "t", 9.0))["far"].reached == 1
    assert by_label(at_kl(results, "t", 11.0))["far"].reached == 0


def test_at_equal_cost(results):
    found = by_label(at_spend(results, "t", "trained_tokens", 4000))
    # far is a third of its way, at KL 8/3 and 10/3; near at its end, at 2 and 3; a nat costs .1.
    assert found["far"].value == pytest.approx(0.4 * 3)
    assert found["near"].value == pytest.approx(0.9 * 2.5)
    half = 12.7062047 * 0.9 * np.std([2, 3], ddof=1) / np.sqrt(2)  # Student's quantile with one degree of freedom
    assert (found["near"].low, found["near"].high) == pytest.approx((2.25 - half, 2.25 + half))
    assert found["best_of_n"].value == pytest.approx(3 - 0.15)
    cheap = by_label(at_spend(results, "t", "reward_queries", 50, "proxy"))
    assert cheap["best_of_n"].kind == "not reached"  # it costs 64
    assert cheap["reference"].value == 0
    assert cheap["far"].value == pytest.approx(0.5 * 9 / 8)


def test_at_the_checkpoint_that_gold_would_choose(results):
    found = by_label(at_best_gold(results, "t"))
    assert found["far"].value == pytest.approx(3.5)  # evaluation 2 of both seeds: 3 and 4, where the end has 1 and 2
    assert found["far"].kl == pytest.approx(4.5)
    assert found["near"].value == 4
    assert (found["best_of_n"].kind, found["best_of_n"].value) == ("point", 0.5)


def test_one_seed_has_no_intervals_and_no_choice(tmp_path, synthetic):
    results = write(tmp_path, synthetic, seeds=1)
    found = by_label(at_kl(results, "t", 2.0))
    assert found["far"].value == pytest.approx(1.0)
    assert np.isnan(found["far"].low)
    assert by_label(at_best_gold(results, "t"))["far"].kind == "one seed"
    kl_and_gold, _ = equal_terms_tables(results, "t")
    assert [title for title, _ in kl_and_gold.groups] == ["proxy at equal KL", "gold at equal KL", "gold"]
    assert kl_and_gold.columns[-1] == "at the end"  # nothing else could choose


def test_without_gold_there_is_none(tmp_path, synthetic):
    results = write(tmp_path, synthetic, gold=False)
    assert at_best_gold(results, "t") == []
    assert {reading.metric for reading in readings(results, "t")} == {"objective", "proxy"}


def test_a_task_on_which_nothing_learned_has_no_section(tmp_path, synthetic):
    synthetic.write_cell(tmp_path, "t", "reference", 0, final={"proxy": 1.0, "kl": 0.0}, data_source="none")
    synthetic.write_manifest(tmp_path, suite={}, planned=[("t", "reference", 0)], tasks={})
    results = Results.load(tmp_path)
    assert readings(results, "t") == []
    assert equal_terms_section(results, "t") is None
    assert results.equal_terms().empty


def test_the_table_says_what_was_not_reached(results):
    kl_and_gold, costs = equal_terms_tables(results, "t")
    assert kl_and_gold.groups == [("proxy at equal KL", 2), ("gold at equal KL", 2), ("gold", 2)]
    assert kl_and_gold.columns[:2] == ["KL 2.000", "KL 8.000"]
    rows = dict(kl_and_gold.rows)
    assert [(cell.value, cell.note) for cell in rows["near"][:2]] == [("2.000", ""), ("–", "not reached")]
    assert (rows["best_of_n"][0].value, rows["best_of_n"][0].note, rows["best_of_n"][0].span) == (
        "3.000",
        "at KL 1.500",
        2,
    )
    assert rows["far"][-1].note.endswith("at KL 4.500")
    assert costs.columns == ["at the end", "400 reward queries", "4k trained tokens", "4 seconds"]
    assert [label for label, _ in costs.rows] == [
        "far",
        "best_of_n",
        "near",
        "reference",
    ]  # as the leaderboard: by its end
    widths = {sum(cell.span for cell in cells) for view in (kl_and_gold, costs) for _, cells in view.rows}
    assert widths == {6, 4}


def test_page_table_and_python(results):
    page = write_report(results)
    assert f"<h3>{TITLE}</h3>" in page.read_text(encoding="utf-8")
    assert f"### {TITLE}" in (page.parent / "report.md").read_text(encoding="utf-8")
    lines = (page.parent / "equal_terms.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "task,label,view,level,metric,value,low,high,seeds,reached,kl,kind"
    assert len(lines) == 1 + len(results.equal_terms())
    assert set(results.at_kl(2.0)["label"]) == {"far", "near", "reference", "best_of_n"}
    assert results.at_spend("seconds", 2.0, "proxy", task="t")["value"].notna().any()
    with pytest.raises(NotFoundError, match="meter"):
        results.at_spend("queries", 2.0)
    with pytest.raises(NotFoundError, match="task"):
        results.at_kl(2.0, task="s")
