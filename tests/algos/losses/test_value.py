"""The maths of value learning: by hand, and against the enumerated optimum."""

import math

import pytest
import torch
from torch import Tensor

from bakeoff.algos.losses.value import (
    conservative_term,
    expectile_loss,
    group_means,
    max_backup,
    next_state_values,
    path_residuals,
    path_weights,
    soft_backup,
    soft_value,
    terminal_rewards,
)
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.exact.enumeration import Enumeration
from bakeoff.envs.tasks.exact.optimum import tilt

# ---------------------------------------------------------------- by hand


def test_soft_value_by_hand() -> None:
    # beta 2, ref (1/2, 1/2), Q = (0, 2 ln 3): V = 2 ln(1/2 + 3/2) = 2 ln 2.
    values = soft_value(torch.tensor([0.0, 2 * math.log(3)]), torch.tensor([0.5, 0.5]).log(), 2.0)
    assert float(values) == pytest.approx(2 * math.log(2))


def test_soft_value_lies_between_mean_and_maximum() -> None:
    action_values, reference = torch.tensor([1.0, 4.0, -2.0]), torch.tensor([0.5, 0.25, 0.25]).log()
    assert float(soft_value(action_values, reference, 1e4)) == pytest.approx(1.0, abs=1e-3)  # .5 + 1 - .5
    assert float(soft_value(action_values, reference, 1e-3)) == pytest.approx(4.0, abs=2e-3)
    forbidden = torch.tensor([1.0, 4.0, -math.inf])
    assert math.isfinite(float(soft_value(forbidden, reference, 1.0)))


def test_path_residuals_by_hand() -> None:
    # Rewards less KL (1, 2, 4), values before (10, 20, 30), after (20, 30, 0).
    residuals = path_residuals(
        torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[10.0, 20.0, 30.0]]), torch.tensor([[20.0, 30.0, 0.0]])
    )[0]
    assert residuals[0].tolist() == [11.0, 23.0, -3.0]  # 1 + 20 - 10; 1 + 2 + 30 - 10; 7 + 0 - 10
    assert residuals[1, 1:].tolist() == [12.0, -14.0]  # 2 + 30 - 20; 6 - 20
    assert float(residuals[2, 2]) == -26.0  # 4 - 30


def test_path_weights_by_hand() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    whole = path_weights(mask, "sequence")
    assert whole[0].nonzero().tolist() == [[0, 2]]
    assert whole[1].nonzero().tolist() == [[0, 1]]
    one = path_weights(mask, "steps", steps=1)
    torch.testing.assert_close(one[0], torch.eye(3) / 3)
    assert one[1].nonzero().tolist() == [[0, 0], [1, 1]]
    two = path_weights(mask, "steps", steps=2)
    assert two[0].nonzero().tolist() == [[0, 1], [1, 2], [2, 2]]
    # Two tokens, decay 1/2: two stretches of weight 1 and one of 1/2.
    every = path_weights(mask, "subtrajectories", decay=0.5)
    torch.testing.assert_close(every[1], torch.tensor([[0.4, 0.2, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(every.sum((1, 2)), torch.ones(2))


def test_group_means_by_hand() -> None:
    values, prompts = torch.tensor([1.0, 10.0, 3.0, 20.0]), torch.tensor([7, 2, 7, 2])
    assert group_means(values, prompts).tolist() == [2.0, 15.0, 2.0, 15.0]
    assert group_means(values, prompts, torch.tensor([3.0, 1.0, 1.0, 0.0])).tolist() == [1.5, 10.0, 1.5, 10.0]


def test_a_cut_completion_is_worth_what_one_that_ended_is() -> None:
    """Row 0 ends by itself after two tokens, row 1 is cut at the limit of three: nothing follows either."""
    mask = torch.tensor([[True, True, False], [True, True, True]])
    values = torch.tensor([[5.0, 6.0, 99.0], [5.0, 6.0, 7.0]])
    assert next_state_values(values, mask).tolist() == [[6.0, 0.0, 0.0], [6.0, 7.0, 0.0]]
    assert terminal_rewards(torch.tensor([2.0, 3.0]), mask).tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]
    ended = torch.tensor([[False, True, True], [False, False, True]])
    targets = soft_backup(terminal_rewards(torch.tensor([2.0, 3.0]), mask), torch.full((2, 3), 50.0), ended)
    assert targets[0, :2].tolist() == [50.0, 2.0]
    assert targets[1].tolist() == [50.0, 50.0, 3.0]


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.9])
def test_the_expectile_of_two_points_is_the_closed_form(expectile: float) -> None:
    # 1 with probability p = 1/4, else 0: tau p (1 - v) = (1 - tau)(1 - p) v, so v = tau p / (tau p + (1 - tau)(1 - p)).
    share = 0.25
    expected = expectile * share / (expectile * share + (1 - expectile) * (1 - share))
    targets = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    value = torch.tensor(expected, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(expectile_loss(targets - value, expectile).mean(), value)
    assert float(gradient) == pytest.approx(0, abs=1e-12)
    for other in (expected - 0.05, expected + 0.05):
        assert expectile_loss(targets - other, expectile).mean() > expectile_loss(targets - value, expectile).mean()


def test_the_conservative_term_pulls_down_what_was_not_chosen() -> None:
    # Q = (0, ln 3), the second chosen: ln 4 - ln 3; its gradient is softmax less one-hot: (1/4, 3/4 - 1).
    action_values = torch.tensor([0.0, math.log(3)], requires_grad=True)
    term = conservative_term(action_values.logsumexp(0), action_values[1])
    assert float(term.detach()) == pytest.approx(math.log(4 / 3))
    term.backward()
    assert action_values.grad is not None
    torch.testing.assert_close(action_values.grad, torch.tensor([0.25, -0.25]))
    # Snell et al.: cross-entropy with Q as logits.
    torch.testing.assert_close(term, torch.nn.functional.cross_entropy(action_values, torch.tensor(1)))


def test_double_estimation_by_hand() -> None:
    target, online = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[0.0, 1.0, 3.0]])
    assert max_backup(target).tolist() == [5.0]
    assert max_backup(target, online).tolist() == [2.0]  # the online network prefers the third


# ---------------------------------------------------------------- against the enumerated optimum


def test_tabular_soft_q_iteration_finds_the_optimum(exact: Task) -> None:
    """From zero tables, as many sweeps as a completion has tokens; one fewer is not enough."""
    enumeration = exact.enumeration
    assert enumeration is not None
    tree, beta, tables = enumeration.tree, enumeration.kl_coef, enumeration.soft_tables
    reference = tree.conditionals(enumeration.reference_logprobs_QN)

    def nothing(level: int, table: Tensor) -> Tensor:
        return table.new_zeros(table.shape[:2])

    rewards = tree.fold(enumeration.rewards_QN, nothing)
    ended = [t == 1 for t in tree.fold(torch.ones_like(enumeration.rewards_QN), nothing)]
    action_values = [torch.zeros_like(t) for t in rewards]

    def error() -> float:
        """Largest difference to log pi*, over all prefixes and tokens."""
        differences = []
        for q, ref, best in zip(action_values, reference, tables.logprobs, strict=True):
            logprobs = ref + (q - soft_value(q, ref, beta)[..., None]) / beta
            differences.append((logprobs - best)[ref.isfinite()].abs().max())
        return float(torch.stack(differences).max())

    for sweep in range(exact.max_new_tokens):
        assert error() > 0.1, sweep
        values = [soft_value(q, ref, beta) for q, ref in zip(action_values, reference, strict=True)]
        after = tree.fold(torch.zeros_like(enumeration.rewards_QN), lambda level, _, v=values: v[level])  # type: ignore[misc]
        action_values = [soft_backup(*parts) for parts in zip(rewards, after, ended, strict=True)]
    assert error() < 1e-5
    for q, best in zip(action_values, tables.action_values, strict=True):
        torch.testing.assert_close(q[best.isfinite()], best[best.isfinite()])


def walk(enumeration: Enumeration, completions: Completions, tables: list[Tensor]) -> list[Tensor]:
    """The rows of (Q, M, ..) tables that completions of prompts 0..Q-1 pass through, (B, ..) a level."""
    branching = len(enumeration.tree.continue_ids)
    rank = torch.zeros(enumeration.tree.vocab_size, dtype=torch.int64)
    rank[list(enumeration.tree.continue_ids)] = torch.arange(branching)
    node, rows = torch.zeros(len(completions), dtype=torch.int64), []
    for level, table in enumerate(tables):
        rows.append(table[completions.prompts.indices_B, node])
        # After the end any node will do.
        node = torch.where(completions.mask_BT[:, level], node * branching + rank[completions.tokens_BT[:, level]], 0)
    return rows


@pytest.mark.parametrize("sampler", ["optimum", "reference", "contrary"])
def test_paths_are_consistent_at_the_optimum(exact: Task, sampler: str) -> None:
    enumeration = exact.enumeration
    assert enumeration is not None
    beta = enumeration.kl_coef
    logprobs_QN = {
        "optimum": enumeration.optimal_logprobs_QN,
        "reference": enumeration.reference_logprobs_QN,
        "contrary": tilt(enumeration.reference_logprobs_QN, -enumeration.rewards_QN, beta),
    }[sampler]
    rows = torch.arange(4).repeat(64)
    completions = enumeration.sample(logprobs_QN, rows, torch.Generator().manual_seed(0))
    lengths, mask = completions.lengths_B, completions.mask_BT
    assert bool((lengths < 5).any())
    assert bool((completions.tokens_BT[lengths == 5, 4] != 7).any())  # some are cut
    scores = enumeration.rewards_QN[rows, enumeration.leaf_index(completions)]
    tables = enumeration.soft_tables
    reference = enumeration.tree.conditionals(enumeration.reference_logprobs_QN)
    values = torch.stack(walk(enumeration, completions, tables.values), 1) * mask

    def chosen(conditionals: list[Tensor]) -> Tensor:
        logprobs_BTV = torch.stack(walk(enumeration, completions, conditionals), 1)
        return logprobs_BTV.gather(2, completions.tokens_BT[..., None])[..., 0].masked_fill(~mask, 0.0)

    log_ratios = chosen(tables.logprobs) - chosen(reference)
    last = torch.zeros_like(values).scatter(1, (lengths - 1)[:, None], scores[:, None])

    def residuals(soft_rewards: Tensor) -> Tensor:
        weights = path_weights(mask, "subtrajectories")
        return path_residuals(soft_rewards, values, next_state_values(values, mask))[weights > 0]

    assert residuals(last - beta * log_ratios).abs().max() < 1e-9
    assert residuals(last).abs().max() > 1  # the reference is not consistent with V*
    # Instead of V(prompt), the mean over completions of the same prompt: all residuals are equal, and it is J*.
    explained = scores / beta - log_ratios.sum(1)
    means = group_means(explained, rows)
    torch.testing.assert_close(explained, means)
    torch.testing.assert_close(beta * means, tables.values[0][rows, 0])
