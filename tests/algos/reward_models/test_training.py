from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from bakeoff.algos.reward_models import features, saving
from bakeoff.algos.reward_models.features import pair_features
from bakeoff.algos.reward_models.metrics import log_loss
from bakeoff.algos.reward_models.training import RewardModelConfig, _start, train_reward_model
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.preferences.load import PreferencePair, load_pairs
from bakeoff.envs.rewards.preference_model import PreferenceEnsemble, PreferenceModel, preference_model
from bakeoff.errors import ModelError, TrainingError, UserError


def test_a_frozen_model_learns_what_tells_answers_apart(backbone, pairs, tmp_path):
    report = train_reward_model(pairs[:80], backbone, out=tmp_path / "rm", evaluation=pairs[80:])
    assert report.measured.accuracy.value > 0.9
    assert report.evaluated is not None
    assert report.evaluated.accuracy.value > 0.9
    assert report.evaluated.accuracy.pairs == 40
    assert all(0.3 < floor.value < 0.7 for floor in report.measured.floors.values())
    assert report.measured.log_loss < 0.4
    assert (report.pairs, report.cut_texts, len(report.penalties), report.history) == (80, 0, 1, [])


def test_saved_model_scores_the_same_in_transformers(backbone, pairs, tmp_path):
    report = train_reward_model(pairs, backbone, out=tmp_path / "rm")
    expected = report.model.scores(["c d e"], [" f a"])[0]
    assert preference_model(tmp_path / "rm")(prompts=["c d e"], completions=[" f a"]) == [
        pytest.approx(expected, abs=1e-4)
    ]
    module = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    assert module(**tokenizer("c d e f a", return_tensors="pt")).logits.item() == pytest.approx(expected, abs=1e-4)
    saved = json.loads((tmp_path / "rm" / "report.json").read_text())
    assert saved["measured"]["accuracy"]["value"] == report.measured.accuracy.value
    assert saved["config"]["trainable"] == "frozen"
    assert not list((tmp_path / "rm").glob("*.bin"))


def test_the_same_seed_gives_the_same_model(backbone, pairs):
    first, again = (train_reward_model(pairs[:40], backbone) for _ in range(2))
    assert first.measured == again.measured
    assert first.model.differences(pairs[40:]).tolist() == again.model.differences(pairs[40:]).tolist()


def test_cross_validation_finds_nothing_where_there_is_nothing(backbone, pairs):
    """With labels by a coin no fold may know its own: an accuracy above chance would be a leak."""
    rng = np.random.default_rng(0)
    coin = [
        PreferencePair(p.prompt, *((p.chosen, p.rejected) if rng.random() < 0.5 else (p.rejected, p.chosen)))
        for p in pairs
    ]
    report = train_reward_model(coin, backbone)
    assert report.measured.accuracy.low < 0.5 < report.measured.accuracy.high
    assert report.measured.log_loss > 0.68
    assert "it may have learned no more" in report.measured.lines()[-1]


def test_an_encoder_and_a_loaded_model_do_as_well(encoder, backbone, pairs):
    assert train_reward_model(pairs, encoder, RewardModelConfig(max_length=32)).measured.accuracy.value > 0.8
    language_model = LanguageModel.load(backbone)
    before = {name: value.clone() for name, value in language_model.module.state_dict().items()}
    report = train_reward_model(pairs, language_model)
    assert report.measured == train_reward_model(pairs, backbone).measured
    assert all(torch.equal(value, before[name]) for name, value in language_model.module.state_dict().items())
    assert report.base_model == str(backbone)


def test_fewer_layers_make_a_smaller_model(backbone, pairs, tmp_path):
    report = train_reward_model(pairs, backbone, RewardModelConfig(layers=1), tmp_path / "rm")
    module = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert len(module.model.layers) == module.config.num_hidden_layers == 1
    assert report.measured.accuracy.value > 0.9
    with pytest.raises(ModelError, match=r"layers is 4, and .* has 3 blocks"):
        train_reward_model(pairs, backbone, RewardModelConfig(layers=4))


def test_an_ensemble_has_members_that_differ(backbone, pairs, tmp_path):
    report = train_reward_model(pairs[:60], backbone, RewardModelConfig(members=3), tmp_path / "rm")
    assert isinstance(report.model, PreferenceEnsemble)
    scores = [member.scores(["c d e"], [" f a"])[0] for member in report.model.members]
    assert len({round(float(score), 4) for score in scores}) == 3
    loaded = preference_model(tmp_path / "rm", ensemble="min")
    assert loaded(prompts=["c d e"], completions=[" f a"]) == [pytest.approx(min(scores), abs=1e-4)]


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_fine_tuning_learns_and_keeps_the_best_look(trainable, backbone, pairs, tmp_path):
    config = RewardModelConfig(
        trainable=trainable, epochs=4, learning_rate=3e-3, batch_size=8, held_out=0.25, patience=3
    )
    report = train_reward_model(pairs, backbone, config, tmp_path / "rm")
    (history,) = report.history
    assert history[0]["train_loss"] < 0.75
    assert report.measured.accuracy.value > 0.8
    assert report.measured.log_loss == pytest.approx(min(look["held_out_loss"] for look in history), abs=1e-4)
    loaded = PreferenceModel.load(tmp_path / "rm")
    assert loaded.differences(pairs[:9]) == pytest.approx(report.model.differences(pairs[:9]), abs=1e-4)


def test_training_starts_at_chance_and_stops_early(backbone, pairs):
    """A rate that ruins the model: the loss was ln 2 when every score was 0, and the looks only get worse."""
    config = RewardModelConfig(trainable="full", epochs=50, learning_rate=1.0, batch_size=60, patience=2, held_out=0.5)
    (history,) = train_reward_model(pairs, backbone, config).history
    assert history[0]["train_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert len(history) < 50


def test_margins_push_answers_further_apart(backbone, pairs):
    wide = [PreferencePair(p.prompt, p.chosen, p.rejected, 4.0) for p in pairs]
    with_margin = train_reward_model(wide, backbone).model.differences(pairs).mean()
    without = train_reward_model(wide, backbone, RewardModelConfig(use_margin=False)).model.differences(pairs).mean()
    assert with_margin > without + 1


def test_a_loss_that_is_no_number_stops_the_training(backbone, pairs, tmp_path):
    folder = tmp_path / "broken"
    module = AutoModelForCausalLM.from_pretrained(backbone)
    module.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    module.save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
    with pytest.raises(ModelError, match="gives features that are not finite"):
        train_reward_model(pairs, folder)
    with pytest.raises(
        TrainingError, match=r"the loss is nan in update 1 \(learning rate 1.0e-03\); lower learning_rate"
    ):
        train_reward_model(pairs, folder, RewardModelConfig(trainable="full", learning_rate=1e-3))


def test_no_pad_token_is_mended_when_we_train(tmp_path, pairs, make):
    folder = make.backbone(tmp_path / "padless", "llama", pad=False)
    report = train_reward_model(pairs, folder, out=tmp_path / "rm")
    assert report.measured.accuracy.value > 0.9
    assert PreferenceModel.load(tmp_path / "rm").model.pad_id == 1


def test_too_little_to_learn_from(backbone, pairs, tmp_path):
    with pytest.raises(TrainingError, match="9 pairs of 9 prompts are too few"):
        train_reward_model(pairs[:9], backbone)
    with pytest.raises(TrainingError, match="3 of the 3 evaluation pairs are among the training pairs"):
        train_reward_model(pairs, backbone, evaluation=pairs[:3])
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        train_reward_model(pairs, str(tmp_path))


def test_a_full_disk_is_one_line_and_keeps_the_old_model(backbone, pairs, tmp_path, monkeypatch):
    train_reward_model(pairs, backbone, out=tmp_path / "rm")
    before = (tmp_path / "rm" / "report.json").read_text()

    def full(self, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreferenceModel, "save", full)
    with pytest.raises(
        UserError, match="the reward model cannot be saved: the disk is full; free some space"
    ) as caught:
        train_reward_model(pairs, backbone, out=tmp_path / "rm")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "rm" / "report.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["rm"]


def test_a_folder_that_cannot_be_written_is_found_out_first(backbone, pairs, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is a file; give a folder"):
        train_reward_model(pairs, backbone, out=tmp_path / "file")
    with pytest.raises(UserError, match="is not empty and holds no reward model"):
        train_reward_model(pairs, backbone, out=tmp_path / "other")
    assert saving._reason(Exception("Error: I/O error: No space left on device (os error 28)")).startswith(
        "the disk is full"
    )


def test_answers_of_a_pair_have_their_own_features(backbone, pairs):
    model = _start(backbone, RewardModelConfig(max_length=9), seed=0)
    told: list[str] = []
    for pooling in ("last", "answer_mean"):
        model.pooling = pooling
        found = pair_features(model, pairs, told.append)
        both = [
            features._cut(*pair, 9)
            for pair in zip(
                *(
                    model.answer_ids([p.prompt for p in pairs], [getattr(p, side) for p in pairs], cut=False)
                    for side in ("chosen", "rejected")
                ),
                strict=True,
            )
        ]
        assert found.differences_ND.numpy() == pytest.approx(features._apart(model, both).numpy(), abs=1e-4)
        assert 0 < found.cut_texts < 240
    assert told[-1] == "features of 120 of 120 pairs"


def test_features_are_kept_from_run_to_run(backbone, pairs, tmp_path, monkeypatch):
    cache = tmp_path / "features.safetensors"
    first = train_reward_model(pairs[:80], backbone, feature_cache=cache, evaluation=pairs[80:])
    computed: list[int] = []
    original = features._shared

    def counting(model, both, pooling):
        computed.append(len(both))
        return original(model, both, pooling)

    monkeypatch.setattr(features, "_shared", counting)
    again = train_reward_model(pairs, backbone, feature_cache=cache)
    assert sum(computed) == 4  # the check of the method, nothing else
    assert again.measured == train_reward_model(pairs, backbone).measured
    assert first.evaluated is not None
    assert first.evaluated.log_loss == pytest.approx(log_loss(first.model.differences(pairs[80:])), abs=1e-4)
    computed.clear()
    train_reward_model(pairs, backbone, RewardModelConfig(layers=2), feature_cache=cache)
    assert sum(computed) == 4 + 120  # another model's features are none of ours
    cache.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"feature cache .* cannot be read .*; delete it or name another file"):
        train_reward_model(pairs, backbone, feature_cache=cache)


def test_a_mean_over_the_answers_tokens(backbone, pairs, tmp_path):
    report = train_reward_model(pairs, backbone, RewardModelConfig(pooling="answer_mean"), tmp_path / "rm")
    assert report.measured.accuracy.low > 0.6
    loaded = PreferenceModel.load(tmp_path / "rm")
    assert loaded.pooling == "answer_mean"
    module, tokenizer = loaded.model.module, loaded.model.tokenizer
    hidden = module.base_model(**tokenizer("c d e f a", return_tensors="pt")).last_hidden_state
    expected = module.score(hidden)[0, 3:, 0].mean().item()
    assert loaded(prompts=["c d e"], completions=[" f a"]) == [pytest.approx(expected, abs=1e-5)]
    with pytest.raises(ValueError, match='"pooling: answer_mean" belongs to trainable: frozen'):
        RewardModelConfig(pooling="answer_mean", trainable="lora")


def test_an_encoder_scores_whole_texts(encoder, pairs):
    with pytest.raises(ModelError, match="scores a whole text, not its tokens; use pooling: last"):
        train_reward_model(pairs, encoder, RewardModelConfig(pooling="answer_mean"))


@pytest.mark.slow
def test_real_preferences_and_a_real_model(tmp_path):
    """Stories of four-year-olds say little about harmlessness: what counts is that all of it runs, and that no fold leaks."""
    data, models = (os.environ.get(name) for name in ("BAKEOFF_TEST_DATA", "BAKEOFF_TEST_MODELS"))
    if not data or not models or not Path(data, "hh-harmless").is_dir() or not Path(models, "stories260K").is_dir():
        pytest.skip(
            "BAKEOFF_TEST_DATA and BAKEOFF_TEST_MODELS name no folders with hh-harmless and stories260K in them"
        )
    found = load_pairs(Path(data) / "hh-harmless" / "pairs-1200.jsonl.gz")
    config = RewardModelConfig(pooling="answer_mean", max_length=256)
    report = train_reward_model(
        found[:200], Path(models) / "stories260K", config, tmp_path / "rm", evaluation=found[300:360]
    )
    assert report.evaluated is not None
    assert 0.4 < report.evaluated.accuracy.value < 0.75
    assert 0.4 < report.measured.accuracy.value < 0.75
    assert report.measured.log_loss < 0.75
    loaded = PreferenceModel.load(tmp_path / "rm")
    assert loaded.differences(found[300:320]) == pytest.approx(report.model.differences(found[300:320]), abs=1e-4)
