"""Tiny seeded models of two families, with a tokenizer made here, and the real one that a folder may hold."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bakeoff.envs.language_model.model import LanguageModel

WORDS = ["<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrst"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def make_module(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    ids = {"eos_token_id": 1, "bos_token_id": None, "pad_token_id": 0}
    if family == "llama":
        config = LlamaConfig(
            vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, **ids,
        )  # fmt: skip
        return LlamaForCausalLM(config)
    config = GPT2Config(vocab_size=24, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, **ids)
    return GPT2LMHeadModel(config)


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(make_module(request.param), make_tokenizer(), name=request.param)
