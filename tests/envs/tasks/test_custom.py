"""Tasks that users declare, on a copy of the smallest model at hand; and what they can get wrong, each in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from bakeoff import make_task
from bakeoff.envs.tasks.exact.task import MODEL
from bakeoff.errors import BakeoffError, ConfigError, ModelError, NotFoundError, PromptError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a b\nc d\ne f\ng a\nb b\n", encoding="utf-8")
    return tmp_path


def declare(folder: Path, **changes: Any) -> Any:
    settings = {"model": str(folder / "model"), "prompts": str(folder / "prompts.txt"), "reward": "length", **changes}
    return make_task("custom", **settings)


def test_a_fifth_of_the_prompts_is_held_back(folder: Path) -> None:
    task = declare(folder, max_new_tokens=4)
    assert (len(task.prompts.train), len(task.prompts.evaluation)) == (4, 1)
    assert set(task.prompts.train) | set(task.prompts.evaluation) == {"a b", "c d", "e f", "g a", "b b"}
    assert task.prompts.evaluation == declare(folder, max_new_tokens=4).prompts.evaluation, "the split repeats"


def test_a_file_of_evaluation_prompts_and_a_gold_reward(folder: Path) -> None:
    (folder / "other.jsonl").write_text(json.dumps({"prompt": "d d"}) + "\n", encoding="utf-8")
    task = declare(folder, evaluation_prompts=str(folder / "other.jsonl"), gold={"name": "length", "target": 2})
    assert task.prompts.evaluation == ("d d",)
    assert len(task.prompts.train) == 5
    assert task.gold is not None
    assert list(task.gold(prompts=["a"], completions=["b"], completion_ids=[[1, 2, 3]])) == [-1.0]


def test_a_python_function_is_a_reward(folder: Path) -> None:
    task = declare(folder, reward=lambda prompts, completions, **columns: [1.0] * len(completions))
    assert list(task.reward(prompts=["a"], completions=["b"])) == [1.0]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model": "{folder}/nothing"}, ModelError, "no model folder at"),
        ({"prompts": "{folder}/nothing.txt"}, PromptError, r"nothing\.txt"),
        ({"evaluation_prompts": "{folder}/prompts.txt"}, PromptError, "share the prompt 'a b' and 4 more"),
        ({"reward": "vadre"}, NotFoundError, 'did you mean "vader"'),
        ({"reward": {"name": "length", "unitt": "words"}}, ConfigError, 'unknown setting "unitt"; did you mean "unit"'),
        ({"max_new_tokens": 0, "kl_coef": -1}, ConfigError, r"max_new_tokens is 0.*kl_coef is -1"),
        ({"color": "red"}, ConfigError, 'unknown setting "color"'),
        ({"dtype": "float8"}, ModelError, 'dtype "float8" is not known'),
        ({"chat": True}, ModelError, "no chat template"),
    ],
)
def test_bad_settings_are_one_clear_line(
    folder: Path, changes: dict[str, Any], kind: type[BakeoffError], message: str
) -> None:
    filled = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(kind, match=message) as caught:
        declare(folder, **filled)
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match='missing setting "reward"'):
        make_task("custom", model=str(folder / "model"), prompts=str(folder / "prompts.txt"))


def test_a_model_that_is_not_causal(folder: Path) -> None:
    config = T5Config(vocab_size=8, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    T5ForConditionalGeneration(config).save_pretrained(folder / "model")
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        declare(folder)


def test_the_reviews_task_can_be_played(folder: Path) -> None:
    task = make_task("reviews", max_new_tokens=6)
    prompts = task.language_model.pad(task.language_model.encode(task.prompts.evaluation[:4]))
    completions = task.language_model.sample(prompts, 6, torch.Generator().manual_seed(0))
    texts = task.language_model.decode(completions.tokens_BT, completions.mask_BT)
    scores = task.reward(prompts=list(task.prompts.evaluation[:4]), completions=texts)
    assert all(-1 <= score <= 1 for score in scores)
    assert len(task.prompts.train) >= 64
    assert len(task.prompts.evaluation) >= 64
    assert not set(task.prompts.train) & set(task.prompts.evaluation)
