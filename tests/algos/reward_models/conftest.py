"""Tiny seeded backbones: a causal model and an encoder, with a tokenizer made here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from bakeoff.envs.preferences.load import PreferencePair

WORDS = ["<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrst", "user", "assistant", ":"]
TEMPLATE = "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' ' }}{% endfor %}"


def make_tokenizer(*, pad: bool = True, template: str | None = None) -> Any:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    kind: Any = PreTrainedTokenizerFast
    fast = kind(
        tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>", **({"pad_token": "<pad>"} if pad else {})
    )
    fast.chat_template = template
    return fast


def save_backbone(folder: Path, family: str, **tokenizer: Any) -> Path:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
    }  # fmt: skip
    if family == "llama":
        config = LlamaConfig(num_key_value_heads=2, eos_token_id=1, bos_token_id=None, **sizes)
        LlamaForCausalLM(config).save_pretrained(folder)
    else:
        BertModel(BertConfig(**sizes)).save_pretrained(folder)
    make_tokenizer(**tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """What the fixtures are made with, for tests that want them otherwise."""
    return SimpleNamespace(tokenizer=make_tokenizer, backbone=save_backbone, template=TEMPLATE)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"), "llama")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("encoder"), "bert")


@pytest.fixture(scope="session")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with three named labels, and a vocabulary of its own."""
    folder = tmp_path_factory.mktemp("sentiment")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=26, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, pad_token_id=0, id2label={0: "NEGATIVE", 1: "NEUTRAL", 2: "POSITIVE"},
        label2id={"NEGATIVE": 0, "NEUTRAL": 1, "POSITIVE": 2}, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pairs() -> list[PreferencePair]:
    """Answers that end in "a" are liked better than those that end in "b"; lengths say nothing."""
    generator = torch.Generator().manual_seed(0)
    letters = "cdefghijklmnopqrst"

    def text(length: int) -> str:
        return " ".join(letters[int(i)] for i in torch.randint(len(letters), (length,), generator=generator))

    def answer(last: str) -> str:
        return f" {text(int(torch.randint(1, 6, (1,), generator=generator)))} {last}"

    return [PreferencePair(text(4) + f" {letters[n % 18]}", answer("a"), answer("b")) for n in range(120)]
