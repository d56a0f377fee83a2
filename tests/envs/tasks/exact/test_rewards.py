"""The dense and the sparse reward by hand, and the callable against the table."""

import math

import pytest
import torch

from bakeoff.envs.language_model.completions import PromptBatch
from bakeoff.envs.tasks.exact import rewards
from bakeoff.envs.tasks.exact.task import PROMPTS
from bakeoff.envs.tasks.exact.tree import CompletionTree
from bakeoff.errors import UserError

TREE = CompletionTree(vocab_size=3, continue_ids=(0, 1), end_ids=(2,), max_new_tokens=2, pad_id=2)
LEAVES = [(2,), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
REFERENCE = torch.tensor([[0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2]], dtype=torch.float64).log()


def test_standardize_by_hand():
    # Mean 3/4 * 0 + 1/4 * 4 = 1, variance 3/4 * 1 + 1/4 * 9 = 3.
    reference = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    found = rewards.standardize(torch.tensor([[0.0, 4.0]], dtype=torch.float64), reference)
    torch.testing.assert_close(found[0].tolist(), [-1 / math.sqrt(3), 3 / math.sqrt(3)])


def test_dense_is_a_sum_over_tokens_and_neighbors():
    prompts = PromptBatch(torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([0]))
    found = rewards.dense_rewards(TREE, REFERENCE, prompts, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    u = torch.randn(1, 3, generator=generator, dtype=torch.float64)[0].tolist()
    w = torch.randn(1, 3, 3, generator=generator, dtype=torch.float64)[0].tolist()
    raw = []
    for leaf in LEAVES:
        score, before = 0.0, 1  # the prompt's last token
        for token in leaf:
            score, before = score + u[token] + w[before][token], token
        raw.append(score)
    probs = REFERENCE[0].exp().tolist()
    mean = sum(p * r for p, r in zip(probs, raw, strict=True))
    deviation = math.sqrt(sum(p * (r - mean) ** 2 for p, r in zip(probs, raw, strict=True)))
    torch.testing.assert_close(found[0].tolist(), [(r - mean) / deviation for r in raw])


def test_dense_is_standardized_under_the_reference(dense):
    table, probs = dense.enumeration.rewards_QN, dense.enumeration.reference_logprobs_QN.exp()
    torch.testing.assert_close((probs * table).sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close((probs * table.square()).sum(1), torch.ones(4, dtype=torch.float64))
    assert float((table[0] - table[1]).abs().max()) > 0.5  # each prompt has its own


@pytest.mark.parametrize(
    ("leaf", "words", "hit"),
    [
        ((0, 1, 3), (0, 1), True),
        ((0, 2, 1), (0, 1), True),
        ((1, 0, 0), (0, 1), False),
        ((1, 0, 1), (0, 1), True),
        ((0, 0, 2), (0, 1), False),
        ((0, 3), (0, 1), False),
        ((0, 1, 2), (0, 1, 2), True),
        ((0, 0, 0), (0, 0), True),
        ((0, 3), (0, 0), False),
    ],
)
def test_words_in_order(leaf, words, hit):
    tree = CompletionTree(vocab_size=4, continue_ids=(0, 1, 2), end_ids=(3,), max_new_tokens=3, pad_id=3)
    index = tree.leaf_index(torch.tensor([leaf]), torch.ones(1, len(leaf), dtype=torch.bool))
    assert bool(rewards.contains_in_order(tree, words)[index]) is hit


def test_padding_after_the_end_is_no_word():
    tree = CompletionTree(vocab_size=3, continue_ids=(0, 1), end_ids=(2,), max_new_tokens=3, pad_id=0)
    index = tree.leaf_index(torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool))
    assert tree.tokens_NT[index].tolist() == [[1, 2, 0]]
    assert not rewards.contains_in_order(tree, (1, 0))[index]


def test_sparse_bonus_is_rare_and_prompt_specific(sparse):
    enumeration = sparse.enumeration
    generator = rewards.exact_seed(0, "sparse")
    words = rewards.choose_words(enumeration.tree, enumeration.reference_logprobs_QN, generator)
    assert len(set(words)) == 4
    hits = torch.stack([rewards.contains_in_order(enumeration.tree, w) for w in words])
    probs = (hits * enumeration.reference_logprobs_QN.exp()).sum(1)
    assert bool(((probs >= 0.004) & (probs <= 0.02)).all())
    faint = rewards.dense_rewards(enumeration.tree, enumeration.reference_logprobs_QN, enumeration.prompts, generator)
    bonus, weight = sparse.settings["bonus"], sparse.settings["dense_weight"]
    torch.testing.assert_close(enumeration.rewards_QN, bonus * hits + weight * faint)


def test_no_fitting_words_is_an_error():
    with pytest.raises(UserError, match="no three words are hit"):
        rewards.choose_words(TREE, REFERENCE, torch.Generator())


@pytest.mark.parametrize("task", ["dense", "sparse"])
def test_callable_equals_the_table(task, request):
    task = request.getfixturevalue(task)
    enumeration = task.enumeration
    leaves = torch.arange(0, 19608, 11)
    rows = torch.arange(4).repeat_interleave(len(leaves))
    leaves = leaves.repeat(4)
    completions = enumeration.completions(rows, leaves)
    texts = task.language_model.decode(completions.tokens_BT, completions.mask_BT)
    ids = [t[m].tolist() for t, m in zip(completions.tokens_BT, completions.mask_BT, strict=True)]
    prompts = [PROMPTS[row] for row in rows]
    expected = enumeration.rewards_QN[rows, leaves].tolist()
    assert task.reward(prompts=prompts, completions=texts, completion_ids=ids, prompt_index=rows.tolist()) == expected
    assert task.reward(prompts, texts) == expected  # the text alone says the same


def test_reward_refuses_what_it_has_no_value_for(dense):
    with pytest.raises(UserError, match='table over the prompts "a b", "c d", "e f", "g a"; it has none for "b b"'):
        dense.reward(["a b", "b b"], ["a", "a"])
    with pytest.raises(UserError, match="completion 0 has the token ids"):
        dense.reward(["a b"], ["a"], completion_ids=[[0]])
    with pytest.raises(UserError, match="at most 5 tokens"):
        dense.reward(["a b"], ["a a a a a a"])
    assert dense.reward([], []) == []
