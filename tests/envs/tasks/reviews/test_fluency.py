"""The bigram model's probabilities by hand, and a range that only lets through what people write."""

import numpy as np
import pytest

from bakeoff.envs.tasks.reviews import fluency
from bakeoff.envs.tasks.reviews.fluency import BigramModel
from bakeoff.envs.tasks.reviews.ngrams import Vocabulary, words_of

TEXTS = [words_of(text) for text in ("the film is good.", "the film is bad.", "the film is long.", "a film!")]


def test_words_and_marks() -> None:
    words = words_of("It's so-so, really?! (Yes: 2)")
    assert " ".join(words) == "it's so - so , really ? ! ( yes : 2 )"


def test_a_pair_costs_what_absolute_discounting_says() -> None:
    model = BigramModel.count(TEXTS, least=2)
    assert set(model.words[2:]) == {"the", "film", "is", "."}
    assert model.unknown_kinds == 5  # good, bad, long, a, !
    # "film" after "the": met 3 times of 3, discounted by .75; the freed mass goes to its share of all 18 words.
    freed = 0.75 / 3
    share = 4 / 18
    place = model.places(["the", "film"])
    surprise, cohesion = model.surprise(place)
    # "the" after the beginning: 3 of 4; 'a' came once and was forgotten, so its mass is freed too.
    first = (3 - 0.75) / 4 + (1 - 2.25 / 4) * 3 / 18
    assert surprise == pytest.approx(-(np.log(first) + np.log((3 - 0.75) / 3 + freed * share)) / 2)
    assert cohesion == pytest.approx(-(np.log(3 / 18) + np.log(share)) / 2 - surprise)


def test_probabilities_sum_to_one() -> None:
    model = BigramModel.count(TEXTS, least=2)
    for before in range(len(model.words)):
        total = 0.0
        for place in range(1, len(model.words)):
            # Two words; the first costs the same in all of them. Place 0 begins a text.
            sequence = [place] if before == 0 else [before, place]
            first = 0.0 if before == 0 else model.surprise([before])[0]
            nats = model.surprise(sequence)[0] * len(sequence) - first
            total += np.exp(-nats) * (model.unknown_kinds if place == 1 else 1)
        assert total == pytest.approx(1.0)


def test_ranges_and_excess() -> None:
    rng = np.random.default_rng(0)
    figures = np.tile([6.0, 0.6, 0.05, 0.45, 0.1], (1000, 1)) + rng.normal(size=(1000, 5)) * 0.01
    lengths = rng.integers(0, len(fluency.LENGTHS) + 1, 1000)
    ranges = fluency.human_ranges(figures, lengths, 0.01)
    inside = fluency.beyond(figures, lengths, ranges)
    assert (inside.sum(1) > 0).mean() < 0.12
    odd = np.array([[6.0, 0.6, 0.05, 0.45, 0.1]])
    middle, high = ranges[2, 2, 1:]
    odd[0, 2] = high + 3 * (high - middle)
    np.testing.assert_allclose(fluency.beyond(odd, np.array([2]), ranges), [[0, 0, 3, 0, 0]], atol=1e-9)
    odd[0] = [0.0, 9.0, -1.0, 0.45, -1.0]  # unsurprising, cohesive, no repetition, no strong words: no penalty
    assert fluency.beyond(odd, np.array([2]), ranges).sum() == 0


def test_features_by_hand() -> None:
    vocabulary = Vocabulary.count([words_of(t) for t in ("good film", "good film", "good, good book")], least=2)
    assert vocabulary.ngrams == ("film", "good", "good film")
    row = vocabulary.features([words_of("good good film")]).toarray()[0]
    idf = 1 + np.log(4 / 3)  # "film" and "good film" are in two of three texts, "good" in all
    expected = np.array([idf, 1 + np.log(2), idf])
    np.testing.assert_allclose(row, expected / np.linalg.norm(expected), rtol=1e-6)
    assert vocabulary.features([["unheard"], []]).nnz == 0
