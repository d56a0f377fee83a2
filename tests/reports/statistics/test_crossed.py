"""Win rates over crossed prompts and seeds: unbiased for independent runs, with errors of the right size."""

import numpy as np
import pytest
from scipy import stats

from bakeoff.reports.statistics.crossed import crossed_win_rate


def simulate(prompts, seeds, prompt_sd, seed_sd, answer_sd, shared, lead, experiments=600):
    """The true rate, and the estimate of each experiment.

    Scores are prompt + run + answer, all normal; ``shared`` is the correlation of answers that two contestants give to one
    prompt under one seed, since those have the same random numbers. ``prompt_sd`` is of the difference between contestants.
    """
    rng = np.random.default_rng(1)
    spread = np.sqrt(prompt_sd**2 + 2 * seed_sd**2 + 2 * answer_sd**2)
    estimates = []
    for _ in range(experiments):
        common = np.sqrt(shared) * rng.normal(size=(prompts, seeds))
        ours, theirs = (
            seed_sd * rng.normal(size=seeds)
            + answer_sd * (common + np.sqrt(1 - shared) * rng.normal(size=(prompts, seeds)))
            for _ in range(2)
        )
        ours += lead + prompt_sd * rng.normal(size=(prompts, 1))
        estimates.append(crossed_win_rate(ours[:, :, None], theirs[:, :, None]))
    return stats.norm.cdf(lead / spread), estimates


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    "components",  # deviations of prompts, runs and answers, correlation of answers, lead
    [(1, 0, 1, 0.5, 0.3), (0, 1, 1, 0.5, 0.3), (1, 0.5, 1, 0, 0.5), (0.5, 0.5, 1, 0.9, 0), (1, 0.5, 1, 0.5, 2)],
)
def test_intervals_cover_the_rate_of_other_prompts_and_seeds(seeds, components):
    truth, estimates = simulate(32, seeds, *components)
    rates = np.array([estimate.rate for estimate in estimates])
    assert abs(rates.mean() - truth) < 4 * rates.std() / np.sqrt(len(rates))
    covered = np.mean([low <= truth <= high for low, high in (e.interval() for e in estimates)])
    error_of_share = np.sqrt(0.95 * 0.05 / len(rates))
    assert 0.92 - error_of_share < covered < 0.98 + error_of_share
    of_errors = np.sqrt(np.mean([e.standard_error**2 for e in estimates]))
    assert 0.9 < of_errors / rates.std() < 1.25


def test_an_error_over_pairs_alone_is_too_small():
    """What stood here before: pairs of answers as if they were independent."""
    truth, estimates = simulate(32, 5, 1, 1, 1, 0.5, 0.5, experiments=300)
    rates = np.array([e.rate for e in estimates])
    over_pairs = np.sqrt(rates * (1 - rates) / (32 * 5))
    assert np.mean(np.abs(rates - truth) < 1.96 * over_pairs) < 0.6


def test_a_contestant_over_itself_is_one_half():
    scores = np.random.default_rng(0).normal(size=(7, 4, 2)).round(1)
    assert crossed_win_rate(scores, scores).rate == pytest.approx(0.5, abs=1e-12)


def test_pairs_that_share_random_numbers_are_left_out():
    """Two copies of one policy plus .1: under one seed it always wins, over independent draws 52.8 %."""
    draws = np.random.default_rng(0).normal(size=(400, 5, 1))
    found = crossed_win_rate(draws + 0.1, draws)
    assert abs(found.rate - stats.norm.cdf(0.1 / np.sqrt(2))) < 4 * found.standard_error
    assert found.pairs == 400 * 20


def test_missing_answers_and_seeds():
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(size=(6, 3, 1)), rng.normal(size=(6, 3, 1))
    theirs[:, 2] = np.nan  # a seed that failed
    ours[0] = np.nan  # a prompt that one lacks
    found = crossed_win_rate(ours, theirs)
    pairs = [(s, t) for s in range(3) for t in range(2) if s != t]
    wins = [[float(ours[p, s, 0] > theirs[p, t, 0]) for s, t in pairs] for p in range(1, 6)]
    assert found.rate == pytest.approx(np.mean(wins))
    assert found.pairs == 5 * 4
    theirs[:, 1] = np.nan
    assert crossed_win_rate(ours, theirs) is None  # one seed on one side


def test_agreement_of_all_pairs_is_no_certainty():
    found = crossed_win_rate(np.ones((8, 3, 1)), np.zeros((8, 3, 1)))
    assert found.rate == 1
    assert found.standard_error == pytest.approx(np.sqrt(9 / (100 * 11)))  # Beta(9, 1)
    low, high = found.interval()
    assert 0.5 < low < 0.8
    assert high == pytest.approx(1)
