import pytest

from bakeoff.envs.tasks.reviews import skills


def test_prompts_have_the_format_of_the_training_sequences() -> None:
    review = "movie: the last half of it drags."
    assert skills.continue_prompt("movie: the last half of ") == "movie: the last half of"
    assert skills.critique_prompt(review) == "movie: the last half of it drags.<critique>"
    assert skills.critique_text("poor", "great") == "poor, make it great"
    prompt = skills.revise_prompt(review, "poor, make it good", "movie: the last half of")
    assert prompt == f"{review}<critique> poor, make it good<revise> the last half of"
    assert skills.revise_prompt(review, " poor ") == f"{review}<critique> poor, make it great<revise>"


def test_critique_score_is_the_expected_rating() -> None:
    assert skills.critique_score([0, 0, 0, 0, 1]) == pytest.approx(2.6)
    # (0.2 * -2.6 + 0.2 * 1.4) / 0.4: mass on other tokens does not count
    assert skills.critique_score([0.2, 0.0, 0.0, 0.2, 0.0]) == pytest.approx(-0.6)
    for wrong in ([0.0] * 5, [1.0] * 4, [float("nan")] * 5):
        with pytest.raises(ValueError, match="5 probabilities with a positive sum"):
            skills.critique_score(wrong)


def test_levels_and_ratings_belong_together() -> None:
    assert [skills.level_of(rating) for rating in skills.LEVEL_RATINGS] == list(skills.LEVELS)
    assert (skills.level_of(-4.0), skills.level_of(0.69), skills.level_of(0.71)) == ("awful", "mixed", "good")
    assert skills.split_tag("gadget: the lens") == ("gadget", "the lens")
    assert skills.split_tag("the movie: a tale") == ("", "the movie: a tale")
    with pytest.raises(ValueError, match='no critique level "superb"'):
        skills.critique_text("poor", "superb")
