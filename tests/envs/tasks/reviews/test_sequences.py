from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from bakeoff.envs.tasks.reviews import skills
from bakeoff.envs.tasks.reviews.fitting.corpus import RatedSentence, read_sentences
from bakeoff.envs.tasks.reviews.fitting.pretrain import Settings, build_model, held_out_nats, train
from bakeoff.envs.tasks.reviews.fitting.sequences import (
    CONTINUE,
    IGNORE,
    JUDGE,
    REVISE,
    SequenceMaker,
    dithered_level,
    level_lift,
)
from bakeoff.envs.tasks.reviews.fitting.vocabulary import train_tokenizer
from bakeoff.errors import ConfigError, UserError


@pytest.fixture
def sentences(make_sdist: Callable[..., Path]) -> Sequence[RatedSentence]:
    return read_sentences(make_sdist(), sha256=None)


def test_one_sequence_teaches_three_skills(sentences: Sequence[RatedSentence]) -> None:
    tokenizer = train_tokenizer([s.text for s in sentences], 300)
    bore = [s for s in sentences if "bore" in s.text]
    maker = SequenceMaker(bore, sentences, tokenizer)
    batch = next(maker.batches(1, torch.Generator().manual_seed(1), tag_dropout=0.0))
    tokens, labels, skill = batch.tokens_BT[0].tolist(), batch.labels_BT[0], batch.skill_BT[0]
    text = tokenizer.decode(tokens)
    assert tokenizer(text.removeprefix("<s>"))["input_ids"] == tokens  # a prompt is tokenized as the training text was
    head, _, rest = text.partition("<revise>")
    assert head.startswith("<s> movie: the film is a bore... and far too long!<critique> awful, make it ")
    requested = head.rsplit(" ", 1)[1]
    fitting = {s.level: s.text for s in sentences if s.text.startswith("the film") and "bore" not in s.text}
    assert rest.strip() == fitting[requested]

    def said(which: int) -> str:
        return tokenizer.decode(labels[(skill == which) & (labels != IGNORE)].tolist())

    assert said(CONTINUE).strip() == "the film is a bore... and far too long!</s>"
    assert said(JUDGE).strip() == "awful</s>"
    assert said(REVISE).strip() == fitting[requested] + "</s>"
    assert tokens[int(batch.critique_B[0])] == tokenizer.convert_tokens_to_ids("<critique>")
    assert batch.request_B[0] == pytest.approx(skills.LEVEL_RATINGS[skills.LEVELS.index(requested)])


def test_rounding_at_random_keeps_the_rating() -> None:
    # -2.0 lies half-way between awful (-2.6) and poor (-1.4); 0.35 a quarter of the way from mixed to good
    assert [dithered_level(-2.0, u) for u in (0.49, 0.51)] == [1, 0]
    assert [dithered_level(0.35, u) for u in (0.24, 0.26)] == [3, 2]
    assert [dithered_level(r, 0.5) for r in (-4.0, -2.6, 2.6, 4.0)] == [0, 0, 4, 4]


def test_lift_favors_the_words_of_a_level() -> None:
    # Token 0 only in awful, 1 only in great, 100 times each: (100 + 20) / (50 + 20) and (0 + 20) / (50 + 20)
    lift_LV = level_lift([[0] * 100, [1] * 100], ["awful", "great"], 3)
    assert lift_LV[0, :2].tolist() == pytest.approx([120 / 70, 1 / 3], rel=1e-3)
    assert lift_LV[4, :2].tolist() == pytest.approx([1 / 3, 120 / 70], rel=1e-3)
    assert lift_LV[2, 0] == pytest.approx(1.0)


def test_bad_settings_are_told_together() -> None:
    with pytest.raises(ConfigError, match=r"layers must be at least 1; dropout must be in \[0, 1\)"):
        Settings(layers=0, dropout=1.0)
    with pytest.raises(ConfigError, match="heads a multiple of kv_heads"):
        Settings(heads=4, kv_heads=3)


def test_too_few_sentences_for_a_batch(sentences: Sequence[RatedSentence]) -> None:
    settings = Settings(steps=1, width=16, layers=1, heads=2, kv_heads=1, mlp_width=16)
    tokenizer = train_tokenizer([s.text for s in sentences], 300)
    with pytest.raises(UserError, match="a batch of 32 needs as many sentences, got 8"):
        train(settings, SequenceMaker(sentences, sentences, tokenizer), build_model(settings, tokenizer))


def test_training_repeats_and_learns(sentences: Sequence[RatedSentence]) -> None:
    settings = Settings(
        steps=30, batch_size=4, width=16, layers=1, heads=2, kv_heads=1, mlp_width=16, learning_rate=0.03
    )
    tokenizer = train_tokenizer([s.text for s in sentences], 300)
    maker = SequenceMaker(sentences, sentences, tokenizer)
    first, second = build_model(settings, tokenizer), build_model(settings, tokenizer)
    before = held_out_nats(first, maker)
    for model in (first, second):
        train(settings, maker, model)
    after = held_out_nats(first, maker)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(after[name] < before[name] - 0.5 for name in before)
