"""The compound score, of prompt and completion or of the completion alone."""

from __future__ import annotations

from bakeoff.envs.rewards.vader import vader


def compound(valence: float) -> float:
    """VADER's normalization: x / sqrt(x^2 + 15), rounded to 4 places."""
    return round(valence / (valence**2 + 15) ** 0.5, 4)


def test_scores_by_hand():
    # The lexicon has 1.9 for "good"; a word of negation before it takes -0.74 of that, "very" adds 0.293.
    texts = ["good", "The film is not good", "very good", "the film", ""]
    expected = [compound(1.9), compound(-0.74 * 1.9), compound(1.9 + 0.293), 0.0, 0.0]
    assert vader()(prompts=[""] * 5, completions=texts) == expected


def test_the_prompt_opens_the_sentence():
    assert vader()(prompts=["It is not"], completions=[" good"]) == [compound(-0.74 * 1.9)]
    assert vader(with_prompt=False)(prompts=["It is not"], completions=[" good"]) == [compound(1.9)]
