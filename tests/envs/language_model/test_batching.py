"""Prompts that are read once, and rows of like length that are read together, change only how much is computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.envs.language_model.conftest import make_tokenizer
from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, LlamaConfig, Qwen2Config

from bakeoff.algos.core.policy import count_trained_tokens
from bakeoff.envs.language_model import batching
from bakeoff.envs.language_model.batching import DistinctPrompts, length_parts, tokens_worth_a_pass
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Meter

PROMPTS = ["a b c", "d", "e f g h i j k", "l m"]
NEVER = 2**40


def test_length_parts_are_cut_where_padding_is_saved() -> None:
    assert length_parts([60, 5] * 40, 256) == [[*range(1, 80, 2)], [*range(0, 80, 2)]]
    assert length_parts([5] * 40, 1) == [[*range(40)]]
    # Together 4 x 9 = 36 columns, apart 2 x 3 + 2 x 9 = 24: a saving of 12.
    assert length_parts([9, 3, 9, 3], 12) == [[1, 3], [0, 2]]
    assert length_parts([9, 3, 9, 3], 13) == [[1, 3, 0, 2]]
    # 1 | 2 3 saves 2, and 2 | 3 saves 1 more.
    assert length_parts([1, 2, 3], 1) == [[0], [1], [2]]
    assert length_parts([7], 1) == [[0]]


def test_distinct_prompts_by_hand() -> None:
    # Rows 0, 2 and 4 are the same prompt (what stands in the padding does not count), row 1 is its tail alone.
    tokens = torch.tensor([[9, 5, 6], [0, 0, 6], [8, 5, 6], [4, 5, 6], [7, 5, 6]])
    mask = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 1, 1]]).bool()
    found = DistinctPrompts.of(tokens, mask, 4)
    assert found is not None
    assert sorted(found.rows_U.tolist()) == [0, 1, 3]
    assert found.rows_U[found.prompt_B].tolist() == [0, 1, 0, 3, 0]
    assert DistinctPrompts.of(tokens, mask, 5) is None, "two rows of two tokens are saved, and no more"


def test_a_wide_model_is_worth_a_pass_for_few_tokens() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [tokens_worth_a_pass(width, cpu) for width in (24, 576, 100_000)] == [683, 29, 1]
    assert [tokens_worth_a_pass(width, gpu) for width in (576, 4096)] == [456, 64]


def grouped(model: LanguageModel, seed: int = 0) -> Completions:
    """Three completions of each prompt, of all lengths from 1 to 12, one row reduced to a single token."""
    prompts = model.pad(model.encode(PROMPTS)).repeat_interleave(3)
    completions = model.sample(prompts, 12, torch.Generator().manual_seed(seed))
    lengths = torch.tensor([1, 12, 3, 7, 2, 9, 4, 11, 5, 6, 8, 10])
    mask = torch.arange(12)[None] < lengths[:, None]
    return Completions(prompts, completions.tokens_BT.where(mask, model.pad_id), mask)


def outputs(model: LanguageModel, completions: Completions) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    model.module.zero_grad()
    logprobs, entropy, _ = model.token_outputs(completions)
    (logprobs.sum() + 0.3 * entropy.sum()).backward()
    return [logprobs.detach(), entropy.detach()], [
        p.grad.clone() for p in model.module.parameters() if p.grad is not None
    ]


def assert_same(ours: Any, theirs: Any) -> None:
    for one, other in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def calls(model: LanguageModel) -> list[tuple[int, ...]]:
    """Shapes of the tokens of each pass from here on."""
    seen: list[tuple[int, ...]] = []
    model.trunk.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    return seen


def test_sharing_and_splitting_change_no_gradient(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    completions = grouped(model)
    monkeypatch.setattr(batching, "PASS_COST", NEVER)
    seen = calls(model)
    whole = outputs(model, completions)
    assert seen == [(12, 7 + 12 - 1)]
    monkeypatch.setattr(batching, "PASS_COST", 1)
    seen.clear()
    assert_same(outputs(model, completions), whole)
    assert seen[0] == (4, 7), "each prompt once"
    # Each completion without padding; two columns at least, since one after a cached text is what generating looks like.
    assert sorted(seen[1:]) == sorted((1, max(2, length - 1)) for length in range(2, 13))
    model.shares_prompts = False
    seen.clear()
    assert_same(outputs(model, completions), whole)
    assert sum(rows for rows, _ in seen) == 12
    assert len(seen) > 5


@pytest.mark.parametrize("pass_cost", [1, NEVER])
def test_the_meter_counts_rows_however_they_are_read(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, pass_cost: int
) -> None:
    """A prompt that three rows share counts three times, whether it is read once or not, and every last token counts."""
    completions = grouped(model)
    meter = Meter()
    count_trained_tokens(model, meter)
    monkeypatch.setattr(batching, "PASS_COST", pass_cost)
    with torch.no_grad():
        model.token_logprobs(completions)
    assert meter.trained_tokens == 0
    model.token_logprobs(completions)
    each = 3 * (3 + 1 + 7 + 2) + sum(range(1, 13))
    assert meter.trained_tokens == each
    for part in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]):
        model.token_logprobs(completions.select(part))
    assert meter.trained_tokens == 2 * each
    model.trunk(torch.zeros(2, 5, dtype=torch.int64))  # as other code may call it
    assert meter.trained_tokens == 2 * each + 10


def test_gradient_checkpointing_reads_prompts_whole(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    completions = grouped(model)
    monkeypatch.setattr(batching, "PASS_COST", 1)
    shared = outputs(model, completions)
    model.checkpoint_gradients()
    assert_same(outputs(model, completions), shared)


@pytest.mark.parametrize("lengths", [[0, 0, 0], [0, 2, 0], [1, 1, 1]])
def test_rows_without_tokens(model: LanguageModel, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = model.pad(model.encode(["e f g"])).repeat_interleave(3)
    mask = torch.arange(2)[None] < torch.tensor(lengths)[:, None]
    completions = Completions(prompts, torch.full((3, 2), 5), mask)
    found = []
    for cost in (NEVER, 1):
        monkeypatch.setattr(batching, "PASS_COST", cost)
        with torch.no_grad():
            assert model.completion_hidden(completions).shape == (3, max(lengths), model.width)
            found.append(model.token_logprobs(completions))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)


def test_sampling_reads_each_prompt_once(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = model.pad(model.encode(PROMPTS)).repeat_interleave(8)
    seen, drawn = calls(model), []
    for cost in (NEVER, 1):
        monkeypatch.setattr(batching, "PASS_COST", cost)
        drawn.append(model.sample(prompts, 12, torch.Generator().manual_seed(7)))
        assert seen[0] == ((32, 7) if cost == NEVER else (4, 7))
        seen.clear()
    assert torch.equal(drawn[0].tokens_BT, drawn[1].tokens_BT)
    torch.testing.assert_close(drawn[0].logprobs_BT, drawn[1].logprobs_BT, atol=1e-5, rtol=0)


def test_kept_activations_belong_to_every_row(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    split = model.split_below(1)
    prompts = split.pad(split.encode(PROMPTS)).repeat_interleave(3)
    kept = []
    for cost in (NEVER, 1):
        monkeypatch.setattr(batching, "PASS_COST", cost)
        completions = split.sample(prompts, 12, torch.Generator().manual_seed(7))
        assert completions.features_BSD is not None
        real = completions.sequence_mask_BS[:, :-1]
        kept.append((completions.features_BSD[real], split.token_logprobs(completions)))
    torch.testing.assert_close(kept[1], kept[0], atol=1e-5, rtol=1e-4)


IDS = {"eos_token_id": 1, "bos_token_id": None, "pad_token_id": 0, "vocab_size": 24}
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "initializer_range": 0.3, **IDS,
}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**LLAMA),
    "qwen2": lambda: Qwen2Config(**LLAMA, use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "gemma2": lambda: Gemma2Config(**LLAMA, head_dim=8, sliding_window=3),
    "bloom": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, **IDS),
}


@pytest.mark.parametrize(("family", "shares"), [("llama", True), ("qwen2", False), ("gemma2", False), ("bloom", True)])
def test_families_with_other_caches_are_read_unshared(
    family: str, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(CONFIGS[family]())
    model = LanguageModel(module, make_tokenizer(), name=family)
    assert model.shares_prompts == shares
    completions = grouped(model)
    monkeypatch.setattr(batching, "PASS_COST", NEVER)
    whole = outputs(model, completions)
    monkeypatch.setattr(batching, "PASS_COST", 1)
    assert_same(outputs(model, completions), whole)
