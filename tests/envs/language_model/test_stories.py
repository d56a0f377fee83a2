"""A real model that was made elsewhere: stories260K, with golden tokens and log-probabilities."""

import json
from pathlib import Path

import pytest
import torch

from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.model import LanguageModel


@pytest.fixture(scope="module")
def stories(stories_folder: Path) -> LanguageModel:
    return LanguageModel.load(stories_folder)


@pytest.fixture(scope="module")
def golden(stories_folder: Path) -> dict[str, list[float]]:
    return json.loads((stories_folder / "golden.json").read_text())


def start(golden: dict[str, list[float]]) -> PromptBatch:
    return PromptBatch(
        torch.tensor([golden["greedy_ids"][:1]]), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    )


def test_two_end_tokens_and_padding_that_is_one_of_them(stories: LanguageModel) -> None:
    assert stories.eos_ids == (1, 2)
    assert stories.pad_id == 2
    assert stories.num_parameters == 260_032


def test_greedy_sampling_gives_the_golden_tokens(stories: LanguageModel, golden: dict[str, list[float]]) -> None:
    greedy = stories.sample(start(golden), 200, torch.Generator(), temperature=0)
    assert greedy.tokens_BT[0].tolist() == golden["greedy_ids"][1:]


@torch.no_grad()
def test_golden_logprobs(stories: LanguageModel, golden: dict[str, list[float]]) -> None:
    tokens = torch.tensor([golden["greedy_ids"][1:]])
    logprobs = stories.token_logprobs(Completions(start(golden), tokens, torch.ones_like(tokens, dtype=torch.bool)))
    assert float(logprobs.sum()) == pytest.approx(golden["sum_logprob_200"], abs=1e-3)
    torch.testing.assert_close(logprobs[0, :10], torch.tensor(golden["first10_logprobs"]), atol=2e-5, rtol=0)


def test_padded_rows_sample_as_they_do_alone(stories: LanguageModel) -> None:
    prompts = ["Once upon a time", "The", "Lily went to the park and saw a dog"]
    batched = stories.sample(stories.pad(stories.encode(prompts)), 30, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for row, prompt in enumerate(prompts):
        single = stories.sample(stories.pad(stories.encode([prompt])), 30, generator)
        assert torch.equal(single.tokens_BT[0], batched.tokens_BT[row])


def test_a_completion_keeps_the_space_between_it_and_its_prompt(stories: LanguageModel) -> None:
    text = "Lily went to the park and saw a dog in a bag."
    ids = stories.encode([text])[0]
    for cut in range(2, len(ids)):  # the prompt ends anywhere, in the middle of a word too
        rest = torch.tensor([ids[cut:]])
        head = stories.tokenizer.decode(ids[1:cut])
        assert head + stories.decode(rest, torch.ones_like(rest, dtype=torch.bool))[0] == text
