"""A family whose cache or padding changes what it reads is refused when it is loaded; the others are not, in half precision either.

Over these families the difference is at most 3e-6 of the hidden states' size where the reading is sound (rounding) and at least
6e-4 where it is not; the tolerance, from a bound on rounding, lies between.
"""

from typing import Any

import pytest
import torch
import transformers
from tests.envs.language_model.conftest import make_module, make_tokenizer

from bakeoff.envs.language_model import probes
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.errors import ModelError

TOKENS = {"vocab_size": 24, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.3}
SMALL = {**TOKENS, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL_CONTEXT = {**SMALL, "max_position_embeddings": 64}
STATE = {**TOKENS, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}

FAULTY: dict[str, dict[str, Any]] = {
    "Mamba": STATE,
    "FalconMamba": STATE,
    "RecurrentGemma": {
        **SMALL, "num_key_value_heads": 1, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16,
    },
    "Zamba2": {
        **SMALL_CONTEXT, "num_key_value_heads": 4, "num_hidden_layers": 4, "mamba_d_state": 8, "n_mamba_heads": 4,
        "mamba_ngroups": 1, "mamba_headdim": 16, "chunk_size": 8, "adapter_rank": 4, "num_mem_blocks": 1,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    },
    "NemotronH": {
        **SMALL_CONTEXT, "head_dim": 8, "num_hidden_layers": 4, "mamba_num_heads": 4, "mamba_head_dim": 16,
        "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8,
        "layers_block_type": ["mamba", "attention", "mamba", "attention"],
    },
}  # fmt: skip
SOUND: dict[str, dict[str, Any]] = {
    "Mistral": {**SMALL_CONTEXT, "num_hidden_layers": 2, "sliding_window": 4},
    "Qwen3": {**SMALL_CONTEXT, "num_hidden_layers": 2, "head_dim": 8},
    "Jamba": {
        **SMALL_CONTEXT, "num_hidden_layers": 4, "mamba_d_state": 8, "mamba_dt_rank": 4, "num_experts": 2,
        "num_experts_per_tok": 1, "use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1,
    },
    "Bamba": {
        **SMALL_CONTEXT, "num_hidden_layers": 2, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
        "mamba_n_groups": 1, "attn_layer_indices": [1], "mamba_chunk_size": 8,
    },
}  # fmt: skip
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def make(family: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("family", FAULTY)
def test_a_family_that_reads_a_batch_differently_is_refused(family: str, dtype: torch.dtype) -> None:
    with pytest.raises(ModelError) as refused:
        LanguageModel(make(family, FAULTY[family]).to(dtype), make_tokenizer(), name=family)
    told = str(refused.value)
    assert "reads a batch in another way than its rows alone" in told
    assert f"{family}ForCausalLM" in told
    assert "\n" not in told


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("family", SOUND)
def test_a_sound_family_is_not_refused(family: str, dtype: torch.dtype) -> None:
    LanguageModel(make(family, SOUND[family]).to(dtype), make_tokenizer(), name=family)


def test_the_check_leaves_half_precision_weights_as_they_were() -> None:
    module = make_module("llama").to(torch.bfloat16)
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in module.state_dict().items()}
    LanguageModel(module, make_tokenizer(), name="half")
    for name, tensor in module.state_dict().items():
        place, value = before[name]
        assert tensor.dtype == torch.bfloat16
        assert tensor.data_ptr() == place
        assert torch.equal(tensor, value)


def test_the_check_reads_a_hundred_tokens() -> None:
    model = LanguageModel(make_module("llama"), make_tokenizer(), name="llama")
    read = 0

    def count(module: Any, args: tuple[Any, ...]) -> None:
        nonlocal read
        read += args[0].numel()

    model.trunk.register_forward_pre_hook(count)
    probes.check_reading(model)
    assert 0 < read <= 120


def test_weights_that_are_not_finite_are_named() -> None:
    module = make_module("llama")
    with torch.no_grad():
        module.model.norm.weight[3] = torch.nan
    with pytest.raises(ModelError, match=r"holds numbers that are not finite, in model\.norm\.weight first"):
        LanguageModel(module, make_tokenizer(), name="broken")


def test_a_type_that_a_family_cannot_compute_in_is_one_line() -> None:
    settings = {**STATE, "num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 2, "chunk_size": 8}
    LanguageModel(make("Mamba2", settings), make_tokenizer(), name="Mamba2")
    with pytest.raises(ModelError, match=r"\(Mamba2ForCausalLM\) cannot compute in bfloat16 .* use dtype: float32"):
        LanguageModel(make("Mamba2", settings).to(torch.bfloat16), make_tokenizer(), name="Mamba2")
