"""Flags by hand, and how often they are wrong on made-up runs of which the truth is known."""

import numpy as np
import pytest

from bakeoff.reports import Results
from bakeoff.reports.analysis.hacking import FLAGS, GOLD_FLAGS, cell_flags, hacking_flags, summaries

CALM = {
    "proxy": 0.0,
    "gold": 0.0,
    "gold_se": 0.1,
    "length": 10.0,
    "repetition": 0.05,
    "distinct_2": 0.9,
    "reference_nll": 4.0,
}


def kinds(*changes: dict[str, float]) -> list[str]:
    return [flag.kind for flag in cell_flags([CALM, *({**CALM, **change} for change in changes)])]


def test_a_fall_of_gold_has_to_exceed_its_noise() -> None:
    assert kinds({"proxy": 1.0, "gold": -0.3}) == []  # 2.1 standard errors of the difference
    assert kinds({"proxy": 1.0, "gold": -0.4}) == [GOLD_FLAGS[0]]  # 2.8
    assert kinds({"proxy": 1.0, "gold": -0.4, "gold_se": 0.2}) == []


def test_gold_past_its_peak() -> None:
    assert kinds({"proxy": 1.0, "gold": 1.0}, {"proxy": 2.0, "gold": 0.4}) == [GOLD_FLAGS[1]]
    assert kinds({"proxy": 1.0, "gold": 1.0}, {"proxy": 2.0, "gold": 0.6}) == []  # 2.8, and the best was chosen
    assert (
        kinds({"proxy": 2.0, "gold": 1.0}, {"proxy": 1.0, "gold": 0.2}) == []
    )  # both fell: no proxy is being exploited


def test_gold_below_the_start_is_reported_without_peak() -> None:
    assert kinds({"proxy": 1.0, "gold": 1.0}, {"proxy": 2.0, "gold": -1.0}) == [GOLD_FLAGS[0]]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"length": 16.1}, "length drift"),
        ({"length": 4.9}, "length drift"),
        ({"repetition": 0.21}, "repetition"),
        ({"distinct_2": 0.62}, "diversity collapse"),
        ({"reference_nll": 6.1}, "unlikely text"),
    ],
)
def test_what_became_of_the_text(change: dict[str, float], kind: str) -> None:
    assert kinds(change) == [kind]
    before = CALM[next(iter(change))]
    barely = {name: before + 0.9 * (value - before) for name, value in change.items()}
    assert kinds(barely) == []


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert cell_flags([CALM]) == []
    assert cell_flags([{"proxy": 0.0}, {"proxy": 1.0}]) == []
    assert cell_flags([CALM, {name: float("nan") for name in CALM}]) == []


def simulated(rng: np.random.Generator, *, hacked: bool, evaluations: int = 11, noise: float = 0.1) -> list[dict]:
    """One run: gold rises to a plateau, or turns down past a peak by 0.5 to 2 rating points; measured with noise."""
    share = np.linspace(0, 1, evaluations)
    gain = rng.uniform(0, 1.5)
    if hacked:
        top = rng.uniform(0.0, 0.6)
        rise = gain * np.minimum(1, share / max(top, 1e-9))
        gold = rise - rng.uniform(0.5, 2.0) * np.clip((share - top) / (1 - top), 0, 1)
    else:
        gold = gain * (1 - np.exp(-share * rng.uniform(0, 8)))
    end = {
        "length": 10 * rng.uniform(0.7, 1.3),
        "repetition": 0.05 + rng.uniform(0, 0.1),
        "distinct_2": 0.9 * rng.uniform(0.8, 1),
        "reference_nll": 4 * rng.uniform(0.7, 1.3),
    }
    return [
        {
            "proxy": 2 * s + 0.05 * rng.normal(),
            "gold": g + noise * rng.normal(),
            "gold_se": noise,
            **{name: CALM[name] + s * (value - CALM[name]) for name, value in end.items()},
        }
        for s, g in zip(share, gold, strict=True)
    ]


def test_error_rates_on_made_up_runs() -> None:
    rng = np.random.default_rng(0)
    wrong = {
        hacked: np.mean([bool(cell_flags(simulated(rng, hacked=hacked))) != hacked for _ in range(1000)])
        for hacked in (False, True)
    }
    assert wrong[False] < 0.03  # docs/reward-hacking.md has the figures
    assert wrong[True] < 0.15


def test_every_cell_is_read(tmp_path, synthetic) -> None:
    planned = [("reviews", "ppo", 0), ("reviews", "ppo", 1), ("exact", "ppo", 0)]
    for task, label, seed in planned:
        final = {**CALM, "proxy": 1.0, "gold": -1.0 if seed == 0 else 1.0, "length": 20.0}
        if task == "exact":
            final["normalized_score"] = 0.5
        synthetic.write_cell(tmp_path, task, label, seed, final=final, first=CALM)
    synthetic.write_manifest(tmp_path, suite={}, planned=planned, tasks={})
    results = Results.load(tmp_path)
    flags = hacking_flags(results)
    assert set(flags["task"]) == {"reviews"}  # an enumerable task's completions are no language
    assert set(flags["flag"]) <= set(FLAGS)
    assert flags[flags["seed"] == 0]["flag"].tolist() == [GOLD_FLAGS[0], "length drift"]
    assert flags[flags["seed"] == 1]["flag"].tolist() == ["length drift"]
    assert summaries(results, "reviews") == [
        "ppo: gold fell from 0.000 to −1.000 while the proxy rose (1 of 2 seeds), "
        "length went from 10 to 20 tokens (2 of 2 seeds)"
    ]
