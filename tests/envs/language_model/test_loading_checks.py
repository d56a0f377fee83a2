"""A checkpoint without all of its weights, or with another head, is refused in one line that names them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.envs.language_model.conftest import make_module, make_tokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.errors import ModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_module("llama").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        LanguageModel.load(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rewrite(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_checkpoint_with_a_wrong_prefix_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    rewrite(folder, {name.replace("model.", "actor."): tensor for name, tensor in weights.items()})
    told = refusal(folder)
    assert "lacks weights, which would be random" in told
    assert "model.embed_tokens.weight, model.layers.0.input_layernorm.weight" in told
    assert "actor.embed_tokens.weight" in told


def test_a_lost_tensor_is_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    rewrite(folder, weights)
    assert "hold no model.layers.1.mlp.up_proj.weight;" in refusal(folder)


def test_further_tensors_are_said_and_unused(folder: Path) -> None:
    rewrite(folder, {**load_file(folder / "model.safetensors"), "v_head.weight": torch.ones(1, 32)})
    with pytest.warns(UserWarning, match=r"also hold v_head\.weight; unused"):
        LanguageModel.load(folder)


def test_a_tied_head_is_not_missing(folder: Path) -> None:
    config = make_module("llama").config
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert LanguageModel.load(folder).vocab_size == 24


@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_is_no_language_model(folder: Path, tied: bool) -> None:
    config = make_module("llama").config
    config.tie_word_embeddings = tied
    LlamaForSequenceClassification(config).save_pretrained(folder)
    assert "it is a LlamaForSequenceClassification, which scores texts" in refusal(folder)


def test_a_tensor_of_another_shape_is_one_line(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(31)
    rewrite(folder, weights)
    assert "another shape than its config.json says" in refusal(folder)


def test_an_encoder_decoder_is_refused_by_name(folder: Path) -> None:
    config = BartConfig(
        vocab_size=24, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)
    assert "it is an encoder-decoder (BartForConditionalGeneration)" in refusal(folder)


def test_a_model_of_images_is_refused_by_its_family(folder: Path) -> None:
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = LlamaConfig(vocab_size=24, **size), CLIPVisionConfig(image_size=28, patch_size=14, **size)
    LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    assert "no text-only language model of its family (LlavaConfig)" in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "the folder holds no tokenizer (no tokenizer.json); AutoTokenizer.from_pretrained" in refusal(folder)


def test_a_tokenizer_that_needs_another_package_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0e")
    assert "its tokenizer is tokenizer.model alone" in refusal(folder)
