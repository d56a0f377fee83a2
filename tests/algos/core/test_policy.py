"""Which weights move: all, adapters, top blocks. Each starts as the reference and leaves it alone."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build
from bakeoff.algos.ppo import PPO
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.prompts import PromptSet
from bakeoff.errors import ConfigError, ModelError

WORDS = ["<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrstu"]
MODES: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"trainable": "lora", "lora_rank": 4},
    "top_layers": {"trainable": "top_layers", "top_layers": 2},
}
IDS = {"eos_token_id": 1, "bos_token_id": None, "pad_token_id": 0, "vocab_size": len(WORDS)}
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, **IDS,
}  # fmt: skip
SLIDING = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}
OPT = {
    "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "word_embed_proj_dim": 32,
    "max_position_embeddings": 64, **IDS,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**LLAMA, **SLIDING),  # two kinds of attention, one above the other
    "qwen3": Qwen3Config(**LLAMA, head_dim=8),
    "gpt2": GPT2Config(n_embd=32, n_layer=4, n_head=4, n_positions=64, initializer_range=0.3, **IDS),
}


def language_model(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    torch.manual_seed(0)
    return LanguageModel(AutoModelForCausalLM.from_config(CONFIGS[family], dtype=dtype), fast, name=family)


def likes_a(completions: list[str]) -> list[float]:
    return [float(text.count("a")) for text in completions]


def make_task(family: str = "llama", dtype: torch.dtype = torch.float32) -> Task:
    prompts = PromptSet(("a b c", "d", "e f g h i j k", "l m"), ("n o", "p"), {})
    return Task("tiny", language_model(family, dtype), prompts, likes_a, max_new_tokens=6, kl_coef=0.1)


def make(mode: str, task: Task | None = None, seed: int = 0, name: str = "ppo", **settings: Any) -> Algorithm:
    defaults = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01} if name == "ppo" else {}
    settings = {**defaults, **MODES[mode], **settings}
    return build(name, settings, task or make_task(), Budget(reward_queries=10_000), seed)


def weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


def storage(model: LanguageModel) -> set[int]:
    return {p.data_ptr() for p in model.module.parameters()}


@pytest.mark.parametrize("mode", MODES)
def test_what_is_named_moves_and_nothing_else(mode: str) -> None:
    task = make_task()
    before_reference = weights(task.language_model)
    algorithm = make(mode, task)
    before = weights(algorithm.policy.model)
    algorithm.update()
    after = weights(algorithm.policy.model)
    moved = {name for name, old in before.items() if not torch.equal(after[name], old)}
    top = ("model.layers.2.", "model.layers.3.", "model.norm.")
    expected = {
        "full": set(before),
        "lora": {name for name in before if "lora_" in name},
        "top_layers": {name for name in before if name.startswith(top)},
    }[mode]
    assert moved == expected
    assert expected
    for model in (task.language_model, algorithm.policy.reference):
        now = weights(model)
        assert now.keys() == before_reference.keys(), "nothing is added to the reference"
        assert all(torch.equal(now[name], old) for name, old in before_reference.items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", CONFIGS)
def test_starts_as_the_reference_exactly(family: str, mode: str) -> None:
    task = make_task(family)
    policy = make(mode, task).policy
    completions = policy.sample(batch(task), 6, torch.Generator().manual_seed(3))
    assert torch.equal(policy.model.token_logprobs(completions), policy.reference.token_logprobs(completions))
    assert float(policy.statistics(completions)["kl"].abs().max()) == 0


def batch(task: Task) -> Any:
    model = task.language_model
    return model.pad(model.encode(task.prompts.train * 2))


@pytest.mark.parametrize(("mode", "share"), [("lora", 0.35), ("top_layers", 0.55)])
def test_one_whole_model_in_memory(mode: str, share: float) -> None:
    """What policy, reference and critic hold together is the model and what was added, not the model twice."""
    task = make_task()
    algorithm = make(mode, task)
    assert isinstance(algorithm, PPO)
    whole = {p.data_ptr(): p.numel() for p in task.language_model.module.parameters()}
    modules = (algorithm.policy.model, algorithm.policy.reference)
    held = {p.data_ptr(): p.numel() for model in modules for p in model.module.parameters()}
    assert held.keys() >= whole.keys()
    assert sum(held.values()) - sum(whole.values()) < share * sum(whole.values())
    assert storage(algorithm.policy.reference) == set(whole)


@pytest.mark.parametrize("family", CONFIGS)
def test_kept_activations_give_the_full_logprobs(family: str) -> None:
    task = make_task(family)
    algorithm = make("top_layers", task)
    for _ in range(2):
        algorithm.update()
    model, reference = algorithm.policy.model, algorithm.policy.reference
    completions = algorithm.policy.sample(batch(task), 6, torch.Generator().manual_seed(5)).select([5, 1, 2, 0, 7])
    assert completions.features_BSD is not None
    plain = type(completions)(completions.prompts, completions.tokens_BT, completions.mask_BT)
    with torch.no_grad():
        for language_model in (model, reference):
            kept, whole = language_model.token_logprobs(completions), language_model.token_logprobs(plain)
            torch.testing.assert_close(kept, whole, atol=1e-4, rtol=0)
    assert completions.logprobs_BT is not None
    torch.testing.assert_close(completions.logprobs_BT, model.token_logprobs(plain).detach(), atol=1e-4, rtol=0)
    assert float(algorithm.policy.statistics(plain)["kl"].max()) > 6e-3, (
        "it has learned, more than 1e-3 at one of the six tokens"
    )


def test_the_frozen_blocks_run_in_sampling_only() -> None:
    task = make_task()
    algorithm = make("top_layers", task, epochs=3)
    runs = {"below": 0, "above": 0}

    def count(part: str) -> Any:
        def hook(*_: Any) -> None:
            runs[part] += 1

        return hook

    layers = algorithm.policy.model.trunk.layers
    layers[0].register_forward_pre_hook(count("below"))
    layers[3].register_forward_pre_hook(count("above"))
    completions = algorithm.policy.sample(batch(task), 6, torch.Generator().manual_seed(0))
    passes = runs["below"]
    assert passes == runs["above"] <= 6
    algorithm.policy.model.token_logprobs(completions)
    assert runs == {"below": passes, "above": passes + 1}
    whole_updates = runs["below"]
    algorithm.update()
    assert runs["below"] - whole_updates <= 6, (
        "an update samples; its three epochs of two minibatches run the top alone"
    )
    assert runs["above"] - passes - 1 >= 6 + runs["below"] - whole_updates


@pytest.mark.parametrize("mode", MODES)
def test_resumes_bit_for_bit(mode: str) -> None:
    task = make_task()
    whole = make(mode, task)
    rows = [whole.update() for _ in range(3)]
    first = make(mode, task)
    assert first.update() == rows[0]
    state = clone(first.state_dict())
    second = make(mode, task, seed=99)
    second.load_state_dict(state)
    second.envs.meter.restore(first.envs.meter.snapshot())
    assert [second.update(), second.update()] == rows[1:]


def clone(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("mode", MODES)
def test_saved_weights_load_with_plain_transformers(mode: str, tmp_path: Path) -> None:
    algorithm = make(mode)
    algorithm.update()
    algorithm.save(tmp_path)
    tokens = torch.tensor([[5, 6, 7, 8]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {name for name, _ in plain.named_parameters()} == set(weights(make_task().language_model))
    # Merging rounds each weight of W + BA once more, by half an eps of float32 relative to it. If none of these errors canceled,
    # each of the 7 products of a block would add `width` of them to the logits. The adapters themselves move the logits by about 1.
    ours, config = algorithm.policy.model.module(tokens).logits.detach(), plain.config
    roundings = 7 * config.num_hidden_layers * config.hidden_size
    merged = roundings * torch.finfo(torch.float32).eps / 2 * float(ours.abs().max())  # 2.7e-4
    torch.testing.assert_close(plain(tokens).logits, ours, atol=merged if mode == "lora" else 1e-5, rtol=1e-5)
    assert (tmp_path / "adapter").is_dir() == (mode == "lora")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_saved_adapters_load_with_plain_peft(family: str, tmp_path: Path) -> None:
    task = make_task(family)
    algorithm = make("lora", task)
    algorithm.update()
    algorithm.save(tmp_path)
    again = peft.PeftModel.from_pretrained(language_model(family).module, str(tmp_path / "adapter"))
    tokens = torch.tensor([[5, 6, 7, 8]])
    expected = algorithm.policy.model.module(tokens).logits
    torch.testing.assert_close(again(input_ids=tokens).logits, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(task.language_model.module(tokens).logits, expected, atol=1e-3)
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits, expected, atol=1e-4, rtol=1e-4
    )


def test_adapters_depend_on_the_seed_and_on_nothing_else() -> None:
    task = make_task()
    state = torch.random.get_rng_state()
    first = make("lora", task, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state), "torch's global generator is left alone"
    torch.manual_seed(1)
    again, other = make("lora", task, seed=0), make("lora", task, seed=1)
    for name, value in first.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name])
    assert any(not torch.equal(v, other.policy.state_dict()[n]) for n, v in first.policy.state_dict().items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 3])
def test_accumulated_gradients_are_the_whole_batchs(mode: str, size: int) -> None:
    plain, parts = make(mode), make(mode, micro_batch_size=size)
    expected, got = plain.update(), parts.update()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=2e-4), name
    theirs = plain.policy.state_dict()
    for name, value in parts.policy.state_dict().items():
        # Adam divides by the gradient's own size, so rounding may turn into a small share of a step of 0.01.
        torch.testing.assert_close(value, theirs[name], atol=2e-3, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing_keeps_gradients(family: str, mode: str) -> None:
    task = make_task(family)
    plain, thrifty = make(mode, task), make(mode, task, gradient_checkpointing=True)
    completions = plain.policy.sample(batch(task), 6, torch.Generator().manual_seed(0))
    gradients, runs = [], []
    for algorithm in (plain, thrifty):
        model = algorithm.policy.model
        blocks = model.trunk.layers if family == "llama" else model.trunk.h
        attention = blocks[3].self_attn if family == "llama" else blocks[3].attn
        seen: list[int] = []
        attention.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        model.token_logprobs(completions).sum().backward()
        runs.append(len(seen))
        gradients.append({n: p.grad for n, p in model.module.named_parameters() if p.grad is not None})
    assert runs == [1, 2]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)
    assert thrifty.update().keys() == plain.update().keys()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("critic", ["separate", "shared", "mlp"])
def test_every_critic_starts_at_zero_and_learns(mode: str, critic: str) -> None:
    algorithm = make(mode, critic=critic)
    assert isinstance(algorithm, PPO)
    completions = algorithm.policy.sample(batch(make_task()), 6, torch.Generator().manual_seed(0))
    assert float(algorithm.critic.values(completions).detach().abs().max()) == 0
    before = [p.detach().clone() for p in algorithm.critic.parameters()]
    for _ in range(2):
        algorithm.update()
    assert all(not torch.equal(a, b) for a, b in zip(before, algorithm.critic.parameters(), strict=True))
    assert torch.equal(
        algorithm.critic.values(completions)[~completions.mask_BT], torch.zeros((~completions.mask_BT).sum())
    )


def test_an_mlp_critic_does_not_move_the_policy() -> None:
    algorithm = make("top_layers", critic="mlp")
    assert isinstance(algorithm, PPO)
    torch.nn.init.ones_(list(algorithm.critic.head.modules())[-1].weight)
    algorithm.critic.values(algorithm.policy.sample(batch(make_task()), 6, torch.Generator())).sum().backward()
    assert all(p.grad is None for p in algorithm.policy.parameters())


@pytest.mark.parametrize(("mode", "kind"), [("full", "separate"), ("lora", "shared"), ("top_layers", "separate")])
def test_default_critic_shares_the_frozen_trunk(mode: str, kind: str) -> None:
    algorithm = make(mode)
    assert isinstance(algorithm, PPO)
    assert algorithm.critic.kind == kind
    if mode == "top_layers":
        below = algorithm.critic.network.trunk.layers[0].mlp.up_proj.weight
        assert below is algorithm.policy.reference.trunk.layers[0].mlp.up_proj.weight


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_trains_with_float32_master_weights(mode: str) -> None:
    task = make_task(dtype=torch.bfloat16)
    algorithm = make(mode, task, learning_rate=1e-4)
    before = {n: p.float().clone() for n, p in algorithm.policy.state_dict().items()}
    assert isinstance(algorithm, PPO)
    for _ in range(2):
        metrics = algorithm.update()
        assert all(torch.tensor(value).isfinite() for value in metrics.values())
    kept = [m for m in algorithm.optimizer._masters]
    assert all(m.dtype == torch.float32 for m in kept)
    # Eight steps of 1e-4 are below bfloat16's resolution at most weights, and add up in the masters all the same.
    masters = dict(zip((n for n in before), kept, strict=False))
    moved = [bool((masters[n] != before[n]).float().mean() > 0.9) for n in before if "lora_A" not in n]
    assert all(moved)
    state = clone(algorithm.state_dict())
    again = make(mode, task, seed=5, learning_rate=1e-4)
    again.load_state_dict(state)
    again.envs.meter.restore(algorithm.envs.meter.snapshot())
    assert again.update() == algorithm.update()


def test_the_meter_counts_tokens_alike_in_every_mode() -> None:
    counts = []
    for mode in MODES:
        policy = make(mode).policy
        completions = policy.sample(batch(make_task()), 6, torch.Generator().manual_seed(0))
        assert policy.meter.trained_tokens == 0
        policy.model.token_logprobs(completions)
        counts.append(policy.meter.trained_tokens)
    assert counts[0] == counts[1] == counts[2] > 0


@pytest.mark.parametrize("layers", [4, 9])
def test_more_top_layers_than_blocks_are_refused(layers: int) -> None:
    with pytest.raises(ModelError, match=rf'top_layers is {layers}, "llama" has 4 blocks; give 1 to 3'):
        make("top_layers", top_layers=layers)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OPTConfig(**OPT), "are not one list of 4"),
        (BloomConfig(hidden_size=32, n_layer=4, n_head=4, **IDS), "cannot be run in two parts"),
    ],
)
def test_a_family_that_cannot_be_split_is_refused(config: Any, message: str) -> None:
    other = language_model("llama")
    torch.manual_seed(0)
    odd = LanguageModel(AutoModelForCausalLM.from_config(config), other.tokenizer, name="odd")
    with pytest.raises(ModelError, match=message) as caught:
        odd.split_below(2)
    assert "use trainable: lora or full" in str(caught.value)


def test_a_forward_pass_that_is_more_than_its_blocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("llama")
    norm = type(model.trunk.norm)
    forward, calls = norm.forward, []

    def odd(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return forward(self, hidden) + 0.01 * len(calls)  # differs from call to call

    monkeypatch.setattr(norm, "forward", odd)
    with pytest.raises(ModelError, match="hidden states differ by"):
        model.split_below(2)


def test_unknown_adapter_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora_targets \['qproj'\] cannot be adapted .* it has .*q_proj"):
        make("lora", lora_targets=["qproj"])


def test_adapters_on_some_layers_only() -> None:
    names = make("lora", lora_targets=["q_proj", "v_proj"]).policy.state_dict()
    assert len(names) == 4 * 2 * 2
    assert all("q_proj" in name or "v_proj" in name for name in names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 8}, '"lora_rank" belongs to trainable: lora, and trainable is full'),
        (
            {"trainable": "lora", "top_layers": 1},
            '"top_layers" belongs to trainable: top_layers, and trainable is lora',
        ),
        ({"trainable": "loar"}, "'full', 'lora' or 'top_layers'"),
        ({"temperature": 0.7}, '"temperature" is not a setting of training: .* ratios would lie'),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("ppo", settings, make_task(), Budget(reward_queries=10), 0)


@pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 0}])
def test_a_filtered_sample_has_no_logprobs_to_take_ratios_with(settings: dict[str, Any]) -> None:
    task = make_task()
    filtered = task.language_model.sample(batch(task), 6, torch.Generator().manual_seed(0), **settings)
    assert filtered.logprobs_BT is None
    assert task.language_model.sample(batch(task), 6, torch.Generator().manual_seed(0)).logprobs_BT is not None
