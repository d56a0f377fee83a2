from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bakeoff.envs.preferences.load import Message
from bakeoff.envs.rewards.preference_model import PreferenceEnsemble, PreferenceModel, combined, preference_model
from bakeoff.envs.rewards.resolve import make_reward
from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier, length_sorted_batches
from bakeoff.errors import ConfigError, ModelError

TEXTS = ["a b c", "a", "d e f g h i j k", "b a", "c"]


@pytest.fixture(scope="module")
def scorer_folder(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model with a scalar head that is not zero."""
    folder = tmp_path_factory.mktemp("scorer")
    torch.manual_seed(0)
    module = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1)
    module.save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
    return folder


def test_batches_are_sorted_by_length_and_hold_every_row_once():
    batches = list(length_sorted_batches([3, 1, 8, 2, 8], 16))
    assert batches == [[2, 4], [0, 3, 1]]
    assert list(length_sorted_batches([100], 16)) == [[0]]


def test_scores_do_not_depend_on_batch_or_order(scorer_folder):
    model = PreferenceModel.load(scorer_folder)
    prompts = ["p q"] * len(TEXTS)
    together = model.scores(prompts, TEXTS)
    model.model.batch_tokens = 1
    alone = np.array([model.scores(["p q"], [text])[0] for text in TEXTS])
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together.round(6))) > 1


def test_the_score_is_transformers_own(scorer_folder):
    module = AutoModelForSequenceClassification.from_pretrained(scorer_folder)
    tokenizer = AutoTokenizer.from_pretrained(scorer_folder)
    expected = module(**tokenizer("p q a b c", return_tensors="pt")).logits.item()
    assert preference_model(scorer_folder)(prompts=["p q"], completions=[" a b c"]) == [
        pytest.approx(expected, abs=1e-5)
    ]


def test_the_end_of_a_long_text_is_kept(scorer_folder):
    model = PreferenceModel.load(scorer_folder, max_length=3)
    assert model.encode(["a b c d"], [" e f"]) == [model.model.tokenizer("d e f")["input_ids"]]


def test_a_chat_template_gets_turns(tmp_path, make):
    folder = make.backbone(tmp_path / "chat", "llama", template=make.template)
    module = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    model = PreferenceModel(SequenceClassifier(module, make.tokenizer(template=make.template), name="chat"))
    assert model.text_format == "chat"

    def read(prompt, answer):
        return model.model.tokenizer.decode(model.encode([prompt], [answer])[0])

    assert read("a b", " c") == "user : a b assistant : c"
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert read(turns, "d") == "user : a assistant : b user : c assistant : d"
    assert read("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " d") == read(turns, "d")
    plain = PreferenceModel(model.model, "plain")
    assert plain.model.tokenizer.decode(plain.encode(["a b"], [" c"])[0]) == "a b c"
    model.model.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(ModelError, match='chat template of "chat" refuses turns of user, assistant: no such role'):
        read("a", "b")


def test_ensembles_are_as_cautious_as_asked():
    scores = np.array([[1.0, 0.0], [3.0, 4.0]])
    assert combined(scores, "mean").tolist() == [2.0, 2.0]
    assert combined(scores, "min").tolist() == [1.0, 0.0]
    assert combined(scores, "mean_minus_deviation", 0.5).tolist() == [1.5, 1.0]


def test_an_ensemble_from_folders(scorer_folder, tmp_path):
    shutil.copytree(scorer_folder, tmp_path / "member-0")
    shutil.copytree(scorer_folder, tmp_path / "member-1")
    one = preference_model(scorer_folder)(prompts=["p"], completions=["a"])
    for source in (tmp_path, [scorer_folder, scorer_folder]):
        both = preference_model(source, ensemble="mean_minus_deviation")
        assert isinstance(both, PreferenceEnsemble)
        assert both(prompts=["p"], completions=["a"]) == pytest.approx(one)
    with pytest.raises(ConfigError, match="ensemble is 'median'"):
        preference_model(tmp_path, ensemble="median")
    with pytest.raises(ConfigError, match="model names no model"):
        preference_model([])


def test_a_base_model_is_no_reward_model(backbone):
    with pytest.raises(ModelError, match=r"has no trained head \(score.weight is missing\).*train-reward"):
        preference_model(backbone)


def test_several_labels_are_no_single_score(sentiment):
    with pytest.raises(ModelError, match='has 3 labels, a preference model one score; use the reward "classifier"'):
        preference_model(sentiment)


def test_no_pad_token(scorer_folder, tmp_path, make):
    folder = tmp_path / "padless"
    module = AutoModelForSequenceClassification.from_pretrained(scorer_folder)
    module.config.pad_token_id = None
    module.save_pretrained(folder)
    make.tokenizer(pad=False).save_pretrained(folder)
    with pytest.raises(
        ModelError, match="has no pad token, so texts of unequal length cannot share a batch; set pad_token"
    ):
        preference_model(folder)


def test_a_pad_token_that_only_the_tokenizer_knows_is_used(scorer_folder, tmp_path, make):
    folder = tmp_path / "half"
    module = AutoModelForSequenceClassification.from_pretrained(scorer_folder)
    module.config.pad_token_id = None
    module.save_pretrained(folder)
    make.tokenizer().save_pretrained(folder)
    prompts = ["p q"] * len(TEXTS)
    found = PreferenceModel.load(folder).scores(prompts, TEXTS)
    assert found == pytest.approx(PreferenceModel.load(scorer_folder).scores(prompts, TEXTS), abs=1e-5)


def test_a_tokenizer_of_another_model(scorer_folder, tmp_path, make):
    shutil.copytree(scorer_folder, tmp_path / "mixed")
    tokenizer = make.tokenizer()
    tokenizer.add_tokens([f"extra{n}" for n in range(20)])
    tokenizer.save_pretrained(tmp_path / "mixed")
    with pytest.raises(ModelError, match="knows 46 tokens, the model 32; they do not belong together"):
        preference_model(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "/nowhere/at/all"}, "no model folder at"),
        ({"dtype": "float8"}, 'dtype "float8" is not known'),
        ({"max_length": 0}, "max_length is 0"),
        ({"format": "chat"}, "has no chat template; use format: plain"),
    ],
)
def test_settings_that_cannot_be(settings, message, scorer_folder):
    with pytest.raises(ModelError, match=message):
        preference_model(**{"model": scorer_folder, **settings})
    with pytest.raises(ConfigError, match="format is 'xml'"):
        preference_model(scorer_folder, format="xml")


def test_the_classifier_gives_one_label(sentiment, make):
    module = AutoModelForSequenceClassification.from_pretrained(sentiment)
    logits = module(**make.tokenizer()("c d e", return_tensors="pt")).logits[0]
    for output, expected in (("logit", logits[2]), ("probability", logits.softmax(0)[2])):
        _, reward = make_reward({"name": "classifier", "model": str(sentiment), "label": "positive", "output": output})
        assert reward(prompts=["a b"], completions=["c d e"]) == [pytest.approx(expected.item(), abs=1e-5)]
    _, joint = make_reward({"name": "classifier", "model": str(sentiment), "label": 2, "with_prompt": True})
    assert joint(prompts=["c "], completions=["d e"]) == [pytest.approx(logits[2].item(), abs=1e-5)]
    # an empty completion and one longer than the model's context are scored, not refused
    _, reward = make_reward({"name": "classifier", "model": str(sentiment), "label": 0})
    assert np.isfinite(reward(prompts=["a", "a"], completions=["<unk>", "c " * 50])).all()


def test_a_label_that_is_not_there(sentiment):
    for label, message in (
        ("posative", r"no label 'posative'; did you mean"),
        (3, "no label 3; it has NEGATIVE, NEUTRAL, POSITIVE"),
    ):
        with pytest.raises(ModelError, match=message):
            make_reward({"name": "classifier", "model": str(sentiment), "label": label})
    with pytest.raises(ConfigError, match="output is 'score'"):
        make_reward({"name": "classifier", "model": str(sentiment), "label": 0, "output": "score"})
