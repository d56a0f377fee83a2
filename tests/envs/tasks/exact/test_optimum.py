"""Optimum, soft Bellman tables, best of n and win rates against numbers derived by hand."""

import math

import pytest
import torch

from bakeoff.envs.language_model.completions import PromptBatch
from bakeoff.envs.tasks.exact import optimum
from bakeoff.envs.tasks.exact.enumeration import Enumeration
from bakeoff.envs.tasks.exact.tree import CompletionTree
from bakeoff.errors import UserError

LN2 = math.log(2)

# One word 0 and the end token 1, at most two tokens: the completions are (1), (0, 0) and (0, 1).
TREE = CompletionTree(vocab_size=2, continue_ids=(0,), end_ids=(1,), max_new_tokens=2, pad_id=1)
REFERENCE = torch.tensor([[1 / 2, 1 / 4, 1 / 4]], dtype=torch.float64).log()
REWARDS = torch.tensor([[0.0, LN2, 2 * LN2]], dtype=torch.float64)


def prompts(count):
    tokens = torch.zeros(count, 1, dtype=torch.int64)
    return PromptBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.arange(count))


def toy(kl_coef=1.0, rewards=REWARDS, reference=REFERENCE):
    return Enumeration(TREE, prompts(len(reference)), rewards, reference, kl_coef)


def random_enumeration(kl_coef=0.7, seed=0, count=3):
    """Two words, an end token and a longest completion of four: 31 completions."""
    tree = CompletionTree(vocab_size=3, continue_ids=(0, 2), end_ids=(1,), max_new_tokens=4, pad_id=1)
    generator = torch.Generator().manual_seed(seed)
    shape = (count, tree.num_leaves)
    reference = torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(1)
    rewards = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Enumeration(tree, prompts(count), rewards, reference, kl_coef)


def test_optimum_by_hand():
    # beta 1: the weights pi_ref exp(r) are 1/2, 1/4 * 2, 1/4 * 4, their sum Z = 2, so J* = ln 2, pi* = 1/4, 1/4, 1/2.
    # E[r] = (1/4 + 2/2) ln 2; KL = (1/4 ln 1/2) + (1/4 ln 1) + (1/2 ln 2) = ln 2 / 4.
    enumeration = toy()
    torch.testing.assert_close(enumeration.optimal_logprobs_QN.exp()[0].tolist(), [0.25, 0.25, 0.5])
    assert enumeration.optimum.reward == pytest.approx(1.25 * LN2)
    assert enumeration.optimum.kl == pytest.approx(0.25 * LN2)
    assert enumeration.optimum.objective == pytest.approx(LN2)


def test_reference_and_a_policy_by_hand():
    enumeration = toy()
    # J_ref = E_ref[r] = (1/4 + 2/4) ln 2; the uniform policy: E[r] = ln 2, KL = ln(1/3) + ln 2 / 3 + 2 * 2 ln 2 / 3.
    at_reference = enumeration.objective(REFERENCE)
    assert at_reference["exact_objective"] == pytest.approx(0.75 * LN2)
    assert at_reference["exact_kl"] == 0.0
    assert at_reference["normalized_score"] == 0.0
    kl = -math.log(3) + 5 / 3 * LN2
    uniform = enumeration.objective(torch.full((1, 3), -math.log(3)))
    assert uniform["exact_reward"] == pytest.approx(LN2)
    assert uniform["exact_kl"] == pytest.approx(kl)
    assert uniform["exact_objective"] == pytest.approx(LN2 - kl)
    assert uniform["normalized_score"] == pytest.approx((0.25 * LN2 - kl) / (0.25 * LN2))
    assert enumeration.objective(enumeration.optimal_logprobs_QN)["normalized_score"] == pytest.approx(1.0)


def test_figures_are_means_over_prompts():
    rewards = torch.cat([REWARDS, -REWARDS])
    enumeration = toy(rewards=rewards, reference=REFERENCE.repeat(2, 1))
    # The second prompt: weights 1/2, 1/8, 1/16, Z = 11/16.
    assert enumeration.optimum.objective == pytest.approx((LN2 + math.log(11 / 16)) / 2)
    assert enumeration.reference.objective == pytest.approx(0.0)


def test_no_kl_coef_puts_everything_on_the_best_rewards():
    enumeration = toy(kl_coef=0.0, rewards=torch.tensor([[3.0, 1.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(enumeration.optimal_logprobs_QN.exp()[0].tolist(), [2 / 3, 0.0, 1 / 3])
    assert enumeration.optimum.objective == pytest.approx(3.0)
    assert enumeration.optimum.kl == pytest.approx(math.log(4 / 3))


def test_soft_tables_by_hand():
    # After 0 the reference has 1/2, 1/2: V = ln(1/2 * 2 + 1/2 * 4) = ln 3. At the root ln(1/2 * 3 + 1/2 * 1) = ln 2.
    tables = toy().soft_tables
    assert tables.values[1].tolist() == [[pytest.approx(math.log(3))]]
    assert tables.values[0].tolist() == [[pytest.approx(LN2)]]
    torch.testing.assert_close(tables.action_values[0][0, 0].tolist(), [math.log(3), 0.0])
    torch.testing.assert_close(tables.action_values[1][0, 0].tolist(), [LN2, 2 * LN2])
    torch.testing.assert_close(tables.logprobs[0].exp()[0, 0].tolist(), [3 / 4, 1 / 4])
    torch.testing.assert_close(tables.logprobs[1].exp()[0, 0].tolist(), [1 / 3, 2 / 3])


def test_soft_bellman_reproduces_the_optimum():
    enumeration = random_enumeration()
    tables = enumeration.soft_tables
    from_tables = enumeration.tree.from_conditionals(tables.logprobs)
    torch.testing.assert_close(from_tables, enumeration.optimal_logprobs_QN, atol=1e-5, rtol=0)
    assert float(tables.values[0].mean()) == pytest.approx(enumeration.optimum.objective, abs=1e-9)
    assert bool(torch.isneginf(tables.action_values[0]).logical_not().all())


def test_forbidden_tokens_have_no_value():
    tree = CompletionTree(vocab_size=4, continue_ids=(0,), end_ids=(2,), max_new_tokens=2, pad_id=3)
    tables = optimum.soft_bellman(tree, REFERENCE, REWARDS, 1.0)
    assert tables.action_values[0][0, 0].tolist() == [pytest.approx(math.log(3)), -math.inf, 0.0, -math.inf]
    assert tables.logprobs[1].exp()[0, 0].tolist() == [pytest.approx(1 / 3), 0.0, pytest.approx(2 / 3), 0.0]


@pytest.mark.parametrize("kl_coef", [0.1, 0.7, 3.0])
def test_what_is_lost_is_beta_times_the_kl_to_the_optimum(kl_coef):
    enumeration = random_enumeration(kl_coef)
    generator = torch.Generator().manual_seed(5)
    for _ in range(5):
        policy = torch.randn(3, 31, generator=generator, dtype=torch.float64).log_softmax(1)
        lost = enumeration.optimum.objective - enumeration.figures(policy).objective
        divergence = (policy.exp() * (policy - enumeration.optimal_logprobs_QN)).sum(1).mean()
        assert lost == pytest.approx(kl_coef * float(divergence), abs=1e-9)
        assert lost > 0


def test_frontier_is_above_every_policy():
    enumeration = random_enumeration()
    points = enumeration.frontier()
    assert points[0]["kl"] < 1e-2
    assert points[-1]["reward"] == pytest.approx(float(enumeration.rewards_QN.amax(1).mean()), abs=1e-2)
    kls, rewards = [p["kl"] for p in points], [p["reward"] for p in points]
    assert kls == sorted(kls)
    assert rewards == sorted(rewards)
    own = enumeration.frontier([enumeration.kl_coef])[0]
    assert own["reward"] == pytest.approx(enumeration.optimum.reward)
    for n in (2, 8, 64):  # no policy of at most a point's KL has more reward
        figures = enumeration.figures(enumeration.best_of_n_logprobs(n))
        assert next(p["reward"] for p in points if p["kl"] >= figures.kl) > figures.reward


def test_best_of_two_by_hand():
    # F = 1/2, 3/4, 1, so the best of two has 1/4, 9/16 - 1/4, 1 - 9/16.
    best = toy().best_of_n_logprobs(2).exp()
    torch.testing.assert_close(best[0].tolist(), [4 / 16, 5 / 16, 7 / 16])
    torch.testing.assert_close(toy().best_of_n_logprobs(1), REFERENCE)


def test_ties_share_by_reference_probability():
    # P(reward 0) = 1/2, P(reward 1) = 1/8 + 3/8: the best of two has 1/4 and 3/4, and the 3/4 splits 1 to 3.
    reference = torch.tensor([[1 / 8, 1 / 2, 3 / 8]], dtype=torch.float64).log()
    best = optimum.best_of_n(reference, torch.tensor([[1.0, 0.0, 1.0]]), 2).exp()
    torch.testing.assert_close(best[0].tolist(), [3 / 16, 1 / 4, 9 / 16])
    # All rewards equal: nothing is chosen.
    torch.testing.assert_close(optimum.best_of_n(reference, torch.zeros(1, 3), 50), reference)


def test_best_of_n_keeps_its_precision():
    # A completion of probability 1e-20 on top: 1 - (1 - 1e-20)^n is n * 1e-20, not 0.
    reference = torch.tensor([[1.0, 1e-20]], dtype=torch.float64).log()
    best = optimum.best_of_n(reference, torch.tensor([[0.0, 1.0]]), 1000)
    assert float(best[0, 1]) == pytest.approx(math.log(1e-17), abs=1e-9)
    # The worst of all wins only when all 64 are it.
    reference = torch.tensor([[1e-3, 1.0 - 1e-3]], dtype=torch.float64).log()
    lowest = optimum.best_of_n(reference, torch.tensor([[0.0, 1.0]]), 64)
    assert float(lowest[0, 0]) == pytest.approx(64 * math.log(1e-3), abs=1e-9)
    with pytest.raises(UserError, match="n of at least 1, got 0"):
        optimum.best_of_n(reference, torch.zeros(1, 2), 0)


@pytest.mark.parametrize(("n", "kl"), [(2, 0.1893), (4, 0.6288), (8, 1.1775), (16, 1.7331), (64, 2.2935)])
def test_best_of_n_of_ten_equal_chances(n, kl):
    reference = torch.full((1, 10), -math.log(10), dtype=torch.float64)
    rewards = torch.arange(10.0).unsqueeze(0)
    best = optimum.best_of_n(reference, rewards, n)
    found = float(optimum.kl_divergence(best, reference))
    assert found == pytest.approx(kl, abs=5e-5)
    assert found < math.log(n) - (n - 1) / n
    assert float(optimum.win_rate(best, reference, rewards)) < n / (n + 1)


@pytest.mark.parametrize(("n", "bound"), [(2, 0.1931), (8, 1.2044), (128, 3.8598)])
def test_best_of_n_comes_close_to_the_bound_without_ties(n, bound):
    reference = torch.full((1, 100_000), -math.log(100_000), dtype=torch.float64)
    best = optimum.best_of_n(reference, torch.arange(100_000.0).unsqueeze(0), n)
    assert float(optimum.kl_divergence(best, reference)) == pytest.approx(bound, abs=1e-4)
    assert float(optimum.win_rate(best, reference, torch.arange(100_000.0).unsqueeze(0))) == pytest.approx(
        n / (n + 1), abs=1e-4
    )


def test_best_of_n_is_what_sampling_gives():
    enumeration = random_enumeration(count=1)
    generator = torch.Generator().manual_seed(1)
    draws = enumeration.sample(enumeration.reference_logprobs_QN, torch.zeros(60_000, dtype=torch.int64), generator)
    leaves = enumeration.leaf_index(draws).reshape(20_000, 3)
    best = leaves.gather(1, enumeration.rewards_QN[0][leaves].argmax(1, keepdim=True)).flatten()
    frequency = torch.bincount(best, minlength=31) / 20_000
    expected = enumeration.best_of_n_logprobs(3).exp()[0]
    assert bool(((frequency - expected).abs() < 4.5 * (expected / 20_000).sqrt() + 1e-4).all())


def test_win_rates_by_hand():
    # Best of two against the reference: 1/4 * 1/4 + 5/16 * 5/8 + 7/16 * 7/8 (mass below, and half a tie).
    enumeration = toy()
    assert enumeration.win_rate(enumeration.best_of_n_logprobs(2)) == pytest.approx(1 / 16 + 25 / 128 + 49 / 128)
    assert enumeration.win_rate(REFERENCE) == pytest.approx(0.5)
    always_best = torch.tensor([[-math.inf, -math.inf, 0.0]])
    assert enumeration.win_rate(always_best) == pytest.approx(7 / 8)


def test_impossible_completions_count_nothing():
    figures = toy().figures(torch.tensor([[-math.inf, -math.inf, 0.0]]))
    assert figures.reward == pytest.approx(2 * LN2)
    assert figures.kl == pytest.approx(2 * LN2)


def test_entropy_by_hand():
    assert toy().entropy(REFERENCE) == pytest.approx(1.5 * LN2)


def test_samples_have_the_frequencies_they_should():
    enumeration = toy(rewards=REWARDS.repeat(2, 1), reference=REFERENCE.repeat(2, 1))
    logprobs = torch.tensor([[0.6, 0.3, 0.1], [0.0, 0.25, 0.75]]).log()
    rows = torch.arange(2).repeat(10_000)
    drawn = enumeration.sample(logprobs, rows, torch.Generator().manual_seed(0))
    assert drawn.prompts.indices_B.tolist() == rows.tolist()
    leaves = enumeration.leaf_index(drawn)
    for row in range(2):
        frequency = torch.bincount(leaves[rows == row], minlength=3) / 10_000
        torch.testing.assert_close(frequency, logprobs[row].exp(), atol=0.02, rtol=0)
    assert not bool((leaves[rows == 1] == 0).any())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": torch.zeros(1, 2)}, r"the rewards have shape \(1, 2\); \(prompts, completions\) is \(1, 3\)"),
        ({"rewards": torch.tensor([[0.0, math.nan, 1.0]])}, "every completion needs a finite reward"),
        ({"kl_coef": -0.1}, "kl_coef is -0.1, expected a number of at least 0"),
        ({"kl_coef": math.inf}, "kl_coef is inf"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        toy(**change)


def test_log_probabilities_that_do_not_add_up_are_refused():
    with pytest.raises(UserError, match=r"add up to \[0.75\] .* expected 1"):
        toy().objective(torch.tensor([[0.25, 0.25, 0.25]]).log())
    with pytest.raises(UserError, match="beta above 0"):
        _ = toy(kl_coef=0.0).soft_tables
