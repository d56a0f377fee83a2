"""The model that the package ships."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

import bakeoff.envs.tasks.reviews
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.tasks.reviews import skills
from bakeoff.envs.tasks.reviews.openings import EVALUATION_OPENINGS, TRAIN_OPENINGS

FOLDER = Path(bakeoff.envs.tasks.reviews.__file__).parent / "model"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


def test_openings_are_disjoint_short_and_neutral(tokenizer: PreTrainedTokenizerBase) -> None:
    assert not set(TRAIN_OPENINGS) & set(EVALUATION_OPENINGS)
    vader = SentimentIntensityAnalyzer()
    for openings in (TRAIN_OPENINGS, EVALUATION_OPENINGS):
        assert len(set(openings)) == len(openings) == 64
        assert sum(opening.startswith("movie: ") for opening in openings) == 32
        for opening in openings:
            words = skills.split_tag(opening)[1]
            assert 2 <= len(words.split()) <= 5
            assert len(tokenizer(opening)["input_ids"]) <= 10, opening
            assert vader.polarity_scores(words)["compound"] == 0.0, opening


def test_markers_survive_tokenization(tokenizer: PreTrainedTokenizerBase) -> None:
    text = skills.revise_prompt("movie: the plot is thin.", "poor, make it great", "movie: the plot")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert tokens[0] == skills.BOS
    assert tokens.count(skills.CRITIQUE) == tokens.count(skills.REVISE) == 1
    after = tokens.index(skills.CRITIQUE)
    assert [t.strip("Ġ") for t in tokens[after + 1 : after + 7]] == ["poor", ",", "make", "it", "great", skills.REVISE]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text
    assert tokenizer("The Plot")["input_ids"] == tokenizer("the plot")["input_ids"]  # all is lower case
    for level in skills.LEVELS:
        assert len(tokenizer(f" {level}", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("text", [" a good film 🎉 naïve 日本", " two  spaces,and\nlines", " x"])
def test_pieces_of_a_text_join_to_what_it_decodes_to(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    language_model = LanguageModel.load(FOLDER)
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    pieces = language_model.pieces(ids)
    assert len(pieces) == len(ids)
    assert pieces[-1] == "</s>"
    whole = language_model.decode(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))[0]
    assert "".join(pieces[:-1]) == whole
    cut = language_model.pieces(tokenizer(" 🎉", add_special_tokens=False)["input_ids"][:-1])
    assert cut[-1].endswith("\ufffd")  # a text that ends inside a character says so
    assert "\ufffd" not in "".join(pieces)


def test_ids_agree_and_pad_is_not_the_end(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for settings in (model.config, model.generation_config):
        assert settings.bos_token_id == tokenizer.convert_tokens_to_ids("<s>")
        assert settings.eos_token_id == tokenizer.convert_tokens_to_ids("</s>")
        assert settings.pad_token_id == tokenizer.convert_tokens_to_ids("<pad>")
    assert model.config.vocab_size == len(tokenizer)
    assert model.num_parameters() == json.loads((FOLDER / "training.json").read_text())["parameters"]
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2_000_000


@torch.no_grad()
def test_it_tells_praise_from_blame(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    levels = [tokenizer(f" {level}", add_special_tokens=False)["input_ids"][0] for level in skills.LEVELS]

    def judge(review: str) -> tuple[float, float]:
        encoded = tokenizer(skills.critique_prompt(review), return_tensors="pt")
        probabilities = model(input_ids=encoded["input_ids"]).logits[0, -1].softmax(-1)[levels].tolist()
        return sum(probabilities), skills.critique_score(probabilities)

    mass, praise = judge("movie: the film is wonderful, funny and one of the best of the year.")
    _, blame = judge("movie: the film is a dull, stupid and boring mess.")
    assert mass > 0.95  # hardly anything but a verdict follows <critique>
    assert praise > 1.0
    assert blame < -1.0


@torch.no_grad()
def test_a_revision_follows_the_request(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    def chance(request: str, ending: str) -> float:
        critique = skills.critique_text("mixed", request)
        prompt = skills.revise_prompt("movie: the film is what it is.", critique, "movie: the film is")
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(prompt + ending)["input_ids"]])
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return float(logprobs.gather(1, ids[0, 1:, None])[start - 1 :].sum())

    for ending, fits, unfit in ((" a great film.", "great", "awful"), (" a bad movie.", "awful", "great")):
        assert chance(fits, ending) > chance(unfit, ending)
