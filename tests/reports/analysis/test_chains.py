"""What the report says of chains and choices, with numbers worked out by hand, and text that would like to do harm."""

from __future__ import annotations

import json

import pytest

from bakeoff.reports import Results, write_report
from bakeoff.reports.analysis.chains import auc, chain_views
from bakeoff.reports.analysis.measures import measure_table


def chain(index: int, response: float, resampled: float, revised: float, verdict: float, critique: str = "bad") -> dict:
    texts = {"response": f"r{index}", "resampled": "again", "revision_1": f"n{index}"}
    scores = {"response": response, "resampled": resampled, "revision_1": revised}
    rounds = [{"principle": "kind", "critique": critique, "revision": f"n{index}"}]
    return {
        "step": 1, "kind": "chain", "prompt": "p", "prompt_index": index, "texts": texts, "rounds": rounds,
        "verdict_score": verdict, "revision_preferred": 0.75, "scores": {"proxy": scores},
    }  # fmt: skip


def choice(index: int, preference: float, places: list[list[float]], first: float, second: float) -> dict:
    scores = {"proxy": {"first": first, "second": second}}
    texts = {"first": "a", "second": "b"}
    return {
        "step": 2, "kind": "choice", "prompt": "p", "prompt_index": index, "texts": texts, "preference": preference,
        "first_place": places, "scores": scores,
    }  # fmt: skip


@pytest.fixture
def view_of(tmp_path, synthetic):
    def make(rows):
        run = tmp_path / "run"
        folder = synthetic.write_cell(run, "reviews", "selfish", 0, final={"proxy": 0.3, "objective": 0.3})
        lines = "".join(json.dumps(row) + "\n" for row in rows) + '{"torn'
        (folder / "records.jsonl").write_text(lines, encoding="utf-8")
        (run / "manifest.json").write_text(json.dumps({"schema": 2, "cells": []}))
        return Results.load(run)

    return make


def test_a_revision_is_held_against_answering_once_more(view_of) -> None:
    rows = [chain(0, -0.5, 0.0, 0.4, -1), chain(1, 0.5, 0.2, 0.4, 1), chain(1, 0.5, 0.2, 0.6, 1)]
    (view,) = chain_views(view_of(rows), "reviews")
    assert view.head == ["text", "proxy"]
    # By prompt: .4 and .3, so .35 with a standard error of .05; the two chains of prompt 1 count as one.
    assert any("compared with a second answer, proxy: 0.350 ± 0.050" in fact for fact in view.facts)
    assert [row[0] for row in view.rows] == ["response", "resampled", "revision 1"]
    assert view.rows[0][1].startswith("0.000 ± 0.500")
    assert "Round 1: 100% of the revisions differ from the text before them." in view.facts
    assert any("probability of 0.75" in fact for fact in view.facts)


def test_degenerate_critics_are_named(view_of) -> None:
    rows = [chain(i, 0.0, 0.1, 0.0, 0, critique="") for i in range(4)]
    for row in rows:
        row["rounds"][0]["revision"] = row["texts"]["response"]
    rows += [choice(i, 0.51, [[0.9, 0.88]], 1.0, 0.0) for i in range(4)]
    (view,) = chain_views(view_of(rows), "reviews")
    text = " ".join(view.warnings)
    for expected in (
        "leaves 100% of the texts",
        "100% of the critiques are empty",
        "undecided",
        "order in which answers",
    ):
        assert expected in text
    assert any("Position bias 0.390" in fact and "changes the winner in 100% of choices" in fact for fact in view.facts)


def test_a_sound_critic_is_not_accused(view_of) -> None:
    rows = [chain(i, 0.5 - (i % 2), 0.0, 0.4 + 0.01 * i, 0.5 - (i % 2)) for i in range(20)]
    rows += [choice(i, 0.8, [[0.8, 0.2]], 1.0, 0.0) for i in range(5)]
    (view,) = chain_views(view_of(rows), "reviews")
    assert view.warnings == []
    assert any("Verdicts against the sign of proxy: area under the ROC curve 1.000" in fact for fact in view.facts)
    assert any("Choices that agree with proxy: 1.000" in fact for fact in view.facts)


def test_the_area_under_the_curve_by_hand() -> None:
    area, error = auc([1, 2, 3], [0, 2])
    assert area == pytest.approx((3 + 1.5) / 6)  # 1, 2, 3 all beat 0; 3 beats 2, and 2 ties with it
    assert 0.1 < error < 0.4


def test_the_page_shows_chains_and_obeys_none_of_their_text(view_of, synthetic) -> None:
    rows = [chain(i, 0.0, 0.0, 0.5, 0.0, critique=text) for i, text in enumerate(synthetic.HOSTILE)]
    for row, text in zip(rows, synthetic.HOSTILE, strict=True):
        row["prompt"] = row["texts"]["response"] = row["rounds"][0]["revision"] = row["rounds"][0]["principle"] = text
    rows.append({"kind": "chain", "rounds": [None, {"critique": 3}], "texts": None, "scores": {"proxy": 3}})
    path = write_report(view_of(rows))
    page = path.read_text(encoding="utf-8")
    assert "Examples: before, critique, after" in page
    assert "<script>window" not in page
    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert "wrote during training" in (path.parent / "report.md").read_text(encoding="utf-8")


def test_measures_stand_beside_each_other_and_are_not_summed(tmp_path, synthetic) -> None:
    run = tmp_path / "run"
    final = {"proxy": 0.3, "objective": 0.3, "measure_words": 10.0, "measure_words_se": 0.5}
    for seed in (0, 1):
        words = 10.0 + 2 * seed
        synthetic.write_cell(run, "task", "two", seed, final={**final, "measure_words": words})
    synthetic.write_cell(run, "task", "one", 0, final=final)
    (run / "manifest.json").write_text(json.dumps({"schema": 2, "cells": []}))
    table = measure_table(Results.load(run), "task")
    assert table.names == ["words"]
    # Over two seeds: 10 and 12, a deviation of sqrt(2), so 1; over one seed what was stored.
    assert dict(table.rows) == {"two": "11 ± 1.000", "one": "10 ± 0.500"}
    page = write_report(Results.load(run)).read_text(encoding="utf-8")
    assert "Further measures" in page


def test_no_chains_no_section(results, report) -> None:
    assert chain_views(results, "reviews") == []
    assert "wrote during training" not in (report / "index.html").read_text(encoding="utf-8")
