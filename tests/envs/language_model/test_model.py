"""The language model on two seeded random families: padding, masks, chunks, forbidden tokens, saving."""

from pathlib import Path

import pytest
import torch
from tests.envs.language_model.conftest import make_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel, PreTrainedTokenizerFast

from bakeoff.envs.language_model import logprobs
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.forward import positions
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.errors import ModelError, PromptError

PROMPTS = ["a b c", "d", "e f g h i j k", "l m"]


def sampled(model: LanguageModel, seed: int = 0, tokens: int = 12) -> Completions:
    return model.sample(model.pad(model.encode(PROMPTS)), tokens, torch.Generator().manual_seed(seed))


def alone(completions: Completions, row: int) -> Completions:
    """One row without any padding: the plainest input a model can get."""
    one = completions.select([row])
    width, length = int(one.prompts.mask_BP.sum()), int(one.lengths_B[0])
    prompts = type(one.prompts)(
        one.prompts.tokens_BP[:, -width:], one.prompts.mask_BP[:, -width:], one.prompts.indices_B
    )
    return Completions(prompts, one.tokens_BT[:, :length], one.mask_BT[:, :length])


def plain_logprobs(model: LanguageModel, completions: Completions) -> torch.Tensor:
    """By transformers alone, one unpadded row at a time, with the forbidden tokens taken out by hand."""
    tokens = completions.sequence_tokens_BS
    logits = model.module(tokens).logits[0].double()
    logits[:, ~model.allowed_V] = -torch.inf
    width = completions.prompts.tokens_BP.shape[1]
    return logits.log_softmax(1)[torch.arange(width - 1, tokens.shape[1] - 1), completions.tokens_BT[0]]


@torch.no_grad()
def test_batched_logprobs_equal_unbatched_plain_ones(model: LanguageModel) -> None:
    completions = sampled(model)
    batched = model.token_logprobs(completions)
    for row in range(len(PROMPTS)):
        expected = plain_logprobs(model, alone(completions, row))
        torch.testing.assert_close(batched[row, : len(expected)].double(), expected, atol=1e-5, rtol=0)
        assert (batched[row, len(expected) :] == 0).all()


@torch.no_grad()
def test_sampling_reports_the_logprobs_of_a_fresh_forward_pass(model: LanguageModel) -> None:
    completions = sampled(model)
    torch.testing.assert_close(completions.logprobs_BT, model.token_logprobs(completions), atol=1e-5, rtol=0)


def test_batched_sampling_equals_unbatched_sampling(model: LanguageModel) -> None:
    batched = sampled(model)
    uniforms = torch.Generator().manual_seed(0)
    for row, prompt in enumerate(PROMPTS):  # rows draw their uniforms one after the other from the same generator
        single = model.sample(model.pad(model.encode([prompt])), 12, uniforms)
        assert torch.equal(single.tokens_BT[0], batched.tokens_BT[row])
        assert torch.equal(single.mask_BT[0], batched.mask_BT[row])


def test_extra_padding_changes_nothing(model: LanguageModel) -> None:
    prompts = model.pad(model.encode(PROMPTS), length=20)
    wide = model.sample(prompts, 12, torch.Generator().manual_seed(0))
    narrow = sampled(model)
    assert torch.equal(wide.tokens_BT, narrow.tokens_BT)
    torch.testing.assert_close(wide.logprobs_BT, narrow.logprobs_BT, atol=1e-5, rtol=0)


def test_the_mask_covers_the_end_token_and_nothing_after_it(model: LanguageModel) -> None:
    prompts = model.pad(model.encode(PROMPTS * 16))
    completions = model.sample(prompts, 12, torch.Generator().manual_seed(1))
    ended = (completions.tokens_BT == 1) & completions.mask_BT
    assert ended.any(), "the seed should give some completions that end early"
    for tokens, mask in zip(completions.tokens_BT, completions.mask_BT, strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert not mask[length:].any()
        assert (tokens[: length - 1] != 1).all()
        assert length == 12 or tokens[length - 1] == 1
        assert (tokens[length:] == model.pad_id).all()


def test_forbidden_tokens_are_never_sampled(model: LanguageModel) -> None:
    # Padding (id 0) is forbidden, and so is id 23, which the tokenizer of 23 words lacks.
    assert (~model.allowed_V).nonzero().flatten().tolist() == [0, 23]
    hidden = torch.randn(50, model.width, generator=torch.Generator().manual_seed(2)) * 5
    assert model.head(hidden).softmax(1)[:, [0, 23]].sum() == 0
    completions = model.sample(model.pad(model.encode(PROMPTS * 50)), 12, torch.Generator().manual_seed(3))
    assert not torch.isin(completions.tokens_BT[completions.mask_BT], torch.tensor([0, 23])).any()


def test_sampling_follows_the_models_distribution(model: LanguageModel) -> None:
    draws = 20_000
    prompts = model.pad(model.encode(["a b"])).repeat_interleave(draws)
    counts = torch.bincount(model.sample(prompts, 1, torch.Generator().manual_seed(4)).tokens_BT[:, 0], minlength=24)
    with torch.no_grad():
        hidden, _ = model.prefill(prompts.tokens_BP[:1], prompts.mask_BP[:1])
        probabilities = model.head(hidden).softmax(1)[0]
    deviation = (draws * probabilities * (1 - probabilities)).sqrt()
    # 24 cells, 4.5 standard deviations: a false alarm in one of 6,000 seeds.
    assert ((counts - draws * probabilities).abs() <= 4.5 * deviation + 1e-9).all()


def test_chunks_change_neither_values_nor_gradients(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    completions = sampled(model)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.module.zero_grad()
        logprobs, entropy, _ = model.token_outputs(completions)
        (logprobs.sum() + 0.3 * entropy.sum()).backward()
        return logprobs.detach(), [p.grad.clone() for p in model.module.parameters() if p.grad is not None]

    whole, whole_gradients = run()
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 24 * 5)  # five rows a chunk
    parts, part_gradients = run()
    torch.testing.assert_close(parts, whole)
    for part, expected in zip(part_gradients, whole_gradients, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-4)


def test_no_chunk_holds_more_logits_than_it_may(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "plain_head", None)  # the path of heads that are more than one matrix
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 24 * 5)
    rows: list[int] = []
    head = model.head
    monkeypatch.setattr(model, "head", lambda hidden: rows.append(len(hidden)) or head(hidden))
    completions = sampled(model)
    rows.clear()
    model.token_logprobs(completions).sum().backward()
    assert max(rows) <= 5
    assert sum(rows) == 2 * int(completions.mask_BT.sum())  # each chunk once forward, once again in the backward pass


def test_entropy_and_exact_kl_by_hand() -> None:
    logits, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[torch.tensor(3.0).log(), 0.0]])
    # Uniform over two against (3/4, 1/4): entropy ln 2, KL = ln 2 - (ln 3) / 2 + ... = .5 ln(.5/.75) + .5 ln(.5/.25).
    _, entropy = logprobs.logprobs_and_entropy(lambda h: h, logits, torch.tensor([0]), 2)
    assert float(entropy[0]) == pytest.approx(0.693147, abs=1e-6)
    tokens = torch.tensor([1])
    found = logprobs.kl_entropy_and_other_logprobs(lambda h: h, logits, lambda h: h, other, tokens, 2)
    assert [float(x[0]) for x in found] == pytest.approx([0.143841, 0.693147, -1.386294], abs=1e-6)  # ln (1/4)


def test_positions_start_at_the_first_real_token() -> None:
    mask = torch.tensor([[False, False, True, True, True], [True, True, True, True, True]])
    assert positions(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_a_copy_has_its_own_weights(model: LanguageModel) -> None:
    twin = model.copy()
    before = model.token_logprobs(sampled(model)).detach()
    with torch.no_grad():
        for parameter in twin.module.parameters():
            parameter.add_(1.0)
    assert torch.equal(model.token_logprobs(sampled(model)).detach(), before)


def test_a_saved_model_loads_with_plain_transformers(model: LanguageModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert not list(tmp_path.glob("*.bin")), "weights are saved as safetensors"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(plain(tokens).logits, model.module(tokens).logits)
    again = LanguageModel.load(tmp_path)
    assert again.eos_ids == model.eos_ids
    assert again.pad_id == model.pad_id
    assert again.encode(PROMPTS) == model.encode(PROMPTS)


def test_chat_prompts_go_through_the_template(model: LanguageModel) -> None:
    model.tokenizer.chat_template = (
        "{% for m in messages %}a {{ m.content }}{% endfor %}{% if add_generation_prompt %} b{% endif %}"
    )
    chat = LanguageModel(model.module, model.tokenizer, name="chat", chat=True)
    assert chat.decode(*[torch.tensor(x) for x in (chat.encode(["c d"]), [[True] * 4])]) == [" a c d b"]


def test_chat_without_a_template_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        LanguageModel(model.module, model.tokenizer, name="plain", chat=True)


def test_prompts_that_leave_no_room_are_refused(model: LanguageModel) -> None:
    texts = ["a", "b " * 60]
    with pytest.raises(PromptError, match=r"has 60 tokens; with max_new_tokens 12 .* \(64\) leaves 52"):
        model.check_prompt_length(model.encode(texts), texts, 12)


def test_empty_prompt_without_start_token_is_refused(model: LanguageModel) -> None:
    with pytest.raises(PromptError, match="encodes to no token"):
        model.encode([""])


def test_a_prompt_that_cannot_be_encoded_is_one_line(model: LanguageModel) -> None:
    words = Tokenizer(WordLevel({"<eos>": 0, "a": 1}, unk_token="<unk>"))
    strict = LanguageModel(
        model.module, PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>"), name="strict"
    )
    with pytest.raises(PromptError, match=r'the tokenizer of "strict" cannot encode prompt \'b\''):
        strict.encode(["a", "b"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere/at/all", "no model folder"),
        ("nowhere.gguf", "no GGUF file"),
        ("package:no_such_package", "no installed package"),
    ],
)
def test_a_missing_model_is_one_clear_line(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        LanguageModel.load(source)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        LanguageModel.load(tmp_path)


def test_a_model_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=24, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        LanguageModel.load(tmp_path)


def test_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'dtype "float8" is not known'):
        LanguageModel.load(tmp_path, dtype="float8")


def test_a_family_without_a_cache_is_refused() -> None:
    module = OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(vocab_size=24, n_embd=32, n_layer=2, n_head=4, eos_token_id=1, pad_token_id=0)
    )
    with pytest.raises(
        ModelError, match=r'the forward pass of "gpt" \(OpenAIGPTLMHeadModel\) takes no key-value cache'
    ):
        LanguageModel(module, make_tokenizer(), name="gpt")
