from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.text_generation.env import TextGenerationEnv
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import PromptError

LETTERS = "abcdef"
EOS, PAD = 6, 7
PROMPTS = ("a", "bc", "abc", "fed", "ff")


class LettersModel:
    """Stands in for a LanguageModel: six letters, end-of-sequence (6), and padding (7), which is forbidden."""

    vocab_size, pad_id, eos_ids, max_context, name = 8, PAD, (EOS,), 16, "letters"
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.allowed_V = torch.tensor([True] * 7 + [False])

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        return [[LETTERS.index(letter) for letter in prompt] for prompt in prompts]

    def decode(self, tokens_BT: Tensor, mask_BT: Tensor) -> list[str]:
        rows = zip(tokens_BT.tolist(), mask_BT.tolist(), strict=True)
        return ["".join(LETTERS[t] for t, m in zip(*row, strict=True) if m and t < EOS) for row in rows]

    def check_prompt_length(self, encoded: Sequence[Sequence[int]], texts: Sequence[str], max_new_tokens: int) -> None:
        for ids, text in zip(encoded, texts, strict=True):
            if len(ids) > self.max_context - max_new_tokens:
                raise PromptError(f"prompt {text!r} is too long")


def count_a(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Letters "a" in the completion, plus a tenth of the prompt's length."""
    return [completion.count("a") + len(prompt) / 10 for prompt, completion in zip(prompts, completions, strict=True)]


def completions_of(prompts: PromptBatch, rows: Sequence[Sequence[int]], length: int) -> Completions:
    """Completions from lists of token ids, padded to ``length``."""
    tokens = torch.tensor([[*row, *[PAD] * (length - len(row))] for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    return Completions(prompts, tokens, mask)


@pytest.fixture(scope="session")
def letters() -> SimpleNamespace:
    """The pieces the tests are made of; each call makes new ones, so a session can share them."""

    def vector(num_envs: int, **settings: Any) -> TextGenerationVectorEnv:
        settings = {"max_new_tokens": 4, **settings}
        return TextGenerationVectorEnv(
            num_envs, settings.pop("model", LettersModel()), settings.pop("prompts", PROMPTS),
            settings.pop("reward", count_a), **settings,
        )  # fmt: skip

    def single(**settings: Any) -> TextGenerationEnv:
        settings = {"max_new_tokens": 4, **settings}
        return TextGenerationEnv(
            settings.pop("model", LettersModel()), settings.pop("prompts", PROMPTS), settings.pop("reward", count_a),
            **settings,
        )  # fmt: skip

    return SimpleNamespace(
        EOS=EOS, PAD=PAD, PROMPTS=PROMPTS, Model=LettersModel, count_a=count_a, completions_of=completions_of,
        vector=vector, single=single,
    )  # fmt: skip
