"""The tree of completions: its leaves, their numbers, and their log-probabilities against plain forward passes."""

import itertools

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.tasks.exact.pretrain import make_tokenizer
from bakeoff.envs.tasks.exact.task import MODEL, PROMPTS
from bakeoff.envs.tasks.exact.tree import CompletionTree
from bakeoff.errors import UserError

TOY = CompletionTree(vocab_size=3, continue_ids=(0, 2), end_ids=(1,), max_new_tokens=2, pad_id=1)


def every_completion(tree):
    """By definition: all token strings that end with their first end token or have the greatest length."""
    tokens = sorted(tree.continue_ids + tree.end_ids)
    found = []
    for length in range(1, tree.max_new_tokens + 1):
        for sequence in itertools.product(tokens, repeat=length):
            ended = sequence[-1] in tree.end_ids or length == tree.max_new_tokens
            if ended and not any(token in tree.end_ids for token in sequence[:-1]):
                found.append(sequence)
    return found


def leaves_of(tree):
    return [tuple(t[m].tolist()) for t, m in zip(tree.tokens_NT, tree.mask_NT, strict=True)]


def test_toy_leaves_by_hand():
    assert leaves_of(TOY) == [(1,), (0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)]
    assert TOY.tokens_NT[0].tolist() == [1, 1]  # padded with the pad id


@pytest.mark.parametrize(
    "tree",
    [
        TOY,
        CompletionTree(vocab_size=2, continue_ids=(0,), end_ids=(1,), max_new_tokens=4, pad_id=1),
        CompletionTree(vocab_size=5, continue_ids=(4, 1), end_ids=(0, 3), max_new_tokens=3, pad_id=2),
        CompletionTree(vocab_size=3, continue_ids=(0, 1, 2), end_ids=(), max_new_tokens=3, pad_id=0),
        CompletionTree(vocab_size=3, continue_ids=(0, 1), end_ids=(2,), max_new_tokens=1, pad_id=2),
    ],
)
def test_leaves_are_every_completion_once(tree):
    leaves = leaves_of(tree)
    assert len(leaves) == tree.num_leaves == len(set(leaves))
    assert sorted(leaves) == sorted(every_completion(tree))
    assert tree.leaf_index(tree.tokens_NT, tree.mask_NT).tolist() == list(range(tree.num_leaves))


def test_count_of_the_exact_task():
    # 7 words: 1 + 7 + 49 + 343 + 2401 that end, and 7 ** 5 that are cut.
    tree = CompletionTree(vocab_size=8, continue_ids=tuple(range(7)), end_ids=(7,), max_new_tokens=5, pad_id=7)
    assert tree.num_leaves == 2801 + 16807 == 19608


def test_too_many_completions_are_refused_before_any_work():
    with pytest.raises(UserError, match=r"1024 tokens and max_new_tokens 24 make .* lower max_new_tokens"):
        CompletionTree(1024, tuple(range(1023)), (1023,), 24, 1023)


@pytest.mark.parametrize("tokens", [[0], [0, 2, 1], [1, 0], [2, 2, 2], []])
def test_what_is_no_complete_sequence_is_refused(tokens):
    row = torch.tensor([tokens], dtype=torch.int64).reshape(1, -1)
    with pytest.raises(UserError, match=r"completion 0 has the token ids .* of at most 2 tokens"):
        TOY.leaf_index(row, torch.ones_like(row, dtype=torch.bool))


def test_conditionals_by_hand():
    # P(end) = 1/2, P(0) = 1/8, P(2) = 3/8; after 0 the tokens 0, 1, 2 have 1/2, 1/4, 1/4, after 2 they have 1/3 each.
    leaves = torch.tensor([[1 / 2, 1 / 16, 1 / 32, 1 / 32, 1 / 8, 1 / 8, 1 / 8]], dtype=torch.float64).log()
    root, after = TOY.conditionals(leaves)
    torch.testing.assert_close(root.exp(), torch.tensor([[[1 / 8, 1 / 2, 3 / 8]]], dtype=torch.float64))
    expected = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 3, 1 / 3, 1 / 3]]], dtype=torch.float64)
    torch.testing.assert_close(after.exp(), expected)
    torch.testing.assert_close(TOY.from_conditionals([root, after]), leaves)


def random_model(family, words):
    """A seeded model over seven words and an end token, with weights large enough to be far from uniform."""
    ids = {"bos_token_id": None, "eos_token_id": 7}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if family == "llama":
            config = LlamaConfig(
                vocab_size=words,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=32,
                initializer_range=0.3,
                **ids,
            )
            module = LlamaForCausalLM(config)
        else:
            config = GPT2Config(
                vocab_size=words, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3, **ids
            )
            module = GPT2LMHeadModel(config)
    return LanguageModel(module, make_tokenizer(), name=family)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_of_prompts_changes_no_logprob(family):
    model = random_model(family, words=10)  # two rows of the head that no token has
    tree = CompletionTree.of(model, 3)
    assert tree.num_leaves == 1 + 7 + 49 + 343
    encoded = [[0], [1, 2, 3], [4, 5]]
    logprobs = tree.sequence_logprobs(model, model.pad(encoded))
    assert not logprobs.requires_grad
    torch.testing.assert_close(logprobs.exp().sum(1), torch.ones(3, dtype=torch.float64), atol=5e-5, rtol=0)
    for row, prompt in enumerate(encoded):
        for leaf in (0, 3, 20, 57, 399):
            completion = tree.tokens_NT[leaf][tree.mask_NT[leaf]]
            with torch.no_grad():
                logits = model.module(torch.cat([torch.tensor(prompt), completion]).unsqueeze(0)).logits[0, :, :8]
            plain = logits.double().log_softmax(-1)[len(prompt) - 1 : -1].gather(1, completion.unsqueeze(1)).sum()
            assert float(logprobs[row, leaf]) == pytest.approx(float(plain), abs=2e-5)


def test_shipped_model_agrees_with_teacher_forcing():
    model = LanguageModel.load(MODEL)
    tree, prompts = CompletionTree.of(model, 5), model.pad(model.encode(PROMPTS))
    logprobs = tree.sequence_logprobs(model, prompts)
    assert logprobs.shape == (4, 19608)
    torch.testing.assert_close(logprobs.exp().sum(1), torch.ones(4, dtype=torch.float64), atol=5e-5, rtol=0)
    leaves = torch.arange(0, 19608, 23)
    rows = torch.arange(4).repeat_interleave(len(leaves))
    leaves = leaves.repeat(4)
    completions = Completions(prompts.select(rows), tree.tokens_NT[leaves], tree.mask_NT[leaves])
    with torch.no_grad():
        forced = model.token_logprobs(completions).double().sum(1)
    torch.testing.assert_close(logprobs[rows, leaves], forced, atol=4e-6, rtol=0)


def test_gradients_come_only_when_asked_for():
    model = random_model("llama", words=8)
    model.module.requires_grad_(True)
    tree, prompts = CompletionTree.of(model, 2), model.pad([[0, 1]])
    assert not tree.sequence_logprobs(model, prompts).requires_grad
    logprobs = tree.sequence_logprobs(model, prompts, gradients=True)
    logprobs.exp().sum().backward()  # the mass is 1 whatever the weights, so its gradient is 0
    gradients = [p.grad.abs().max() for p in model.module.parameters() if p.grad is not None]
    assert len(gradients) > 0
    assert max(gradients) < 1e-5
