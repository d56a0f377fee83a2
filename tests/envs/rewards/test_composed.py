from __future__ import annotations

import pytest

from bakeoff.envs.rewards.call import RewardResult, call_reward, reward_name
from bakeoff.envs.rewards.composed import clip, normalize, penalize_length, weighted
from bakeoff.envs.rewards.resolve import make_reward
from bakeoff.errors import ConfigError, NotFoundError, RewardError

PROMPTS = ["p", "p", "p"]
COMPLETIONS = ["one", "one two", "one two three"]
COLUMNS = {"completion_ids": [[1], [1, 2], [1, 2, 3]], "prompt_index": [0, 0, 0]}
WORDS = {"name": "length", "unit": "words"}


def found(reward):
    return call_reward(reward, reward_name(reward), PROMPTS, COMPLETIONS, COLUMNS)


def has_two(completions):
    return [float("two" in text) for text in completions]


def test_a_weighted_sum_and_its_parts():
    result = found(weighted([{"reward": WORDS, "weight": 0.5}, {"reward": has_two, "weight": -2}, {"reward": has_two}]))
    assert result.values.tolist() == [0.5, 0.0, 0.5]
    assert {name: values.tolist() for name, values in result.parts.items()} == {
        "length": [1.0, 2.0, 3.0],
        "has_two": [0.0, 1.0, 1.0],
        "has_two_2": [0.0, 1.0, 1.0],
    }


def test_pairs_do_in_python():
    reward = weighted([("vader", 1), (has_two, 0.1)])
    assert reward_name(reward) == "weighted(vader, has_two)"
    returned = reward(prompts=PROMPTS, completions=COMPLETIONS, **COLUMNS)
    assert isinstance(returned, list)
    assert isinstance(returned, RewardResult)


def test_clip_normalize_and_a_price_on_length():
    assert found(clip(WORDS, low=1.5, high=2.5)).values.tolist() == [1.5, 2.0, 2.5]
    assert found(clip(WORDS, high=2)).values.tolist() == [1.0, 2.0, 2.0]
    assert found(normalize(WORDS, mean=2, std=0.5)).values.tolist() == [-2.0, 0.0, 2.0]
    priced = found(penalize_length(has_two, price=0.25, free=1))
    assert priced.values.tolist() == [0.0, 0.75, 0.5]
    assert {n: v.tolist() for n, v in priced.parts.items()} == {
        "has_two": [0.0, 1.0, 1.0],
        "length_penalty": [0.0, -0.25, -0.5],
    }
    assert found(penalize_length(has_two, price=1, unit="words")).values.tolist() == [-1.0, -1.0, -2.0]


def test_compositions_nest_and_come_from_yaml():
    name, reward = make_reward(
        {
            "name": "weighted",
            "rewards": [{"reward": {"name": "clip", "reward": WORDS, "low": 2}, "weight": 1}, {"reward": "vader"}],
        }
    )
    assert name == "weighted"
    assert reward_name(reward) == "weighted(clip(length), vader)"
    result = found(reward)
    assert result.values.tolist() == [2.0, 2.0, 3.0]
    assert list(result.parts) == ["length", "vader"]
    assert result.parts["length"].tolist() == [1.0, 2.0, 3.0]  # as it was before the clip


def test_a_part_that_fails_is_named():
    with pytest.raises(RewardError, match='reward "broken" returned nan for prompt'):
        found(weighted([{"reward": broken}, {"reward": "vader"}]))


def broken(completions):
    return [float("nan")] * len(completions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: weighted([]), "rewards is empty"),
        (lambda: weighted({"reward": "vader"}), "rewards is empty or no list"),
        (lambda: weighted([{"weight": 1}]), "entry 1 is"),
        (lambda: weighted([{"reward": "vader", "wieght": 1}]), "entry 1 is"),
        (lambda: weighted([{"reward": "vader", "weight": "2"}]), "the weight of entry 1 is '2'"),
        (lambda: weighted(["vader"]), "entry 1 is 'vader'"),
        (lambda: clip("vader"), "give low, high or both"),
        (lambda: clip("vader", 1, 0), r"low \(1\) is not below high \(0\)"),
        (lambda: clip("vader", low=float("nan")), "low is nan"),
        (lambda: normalize("vader", 0, 0), "std above 0"),
        (lambda: penalize_length("vader", -1), "price is -1"),
        (lambda: penalize_length("vader", 1, free=-1), "free is -1"),
        (lambda: penalize_length("vader", 1, unit="lines"), "unit is 'lines'"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_unknown_reward_inside_is_named():
    with pytest.raises(NotFoundError, match='did you mean "vader"'):
        weighted([{"reward": "vadr"}])


def test_the_environment_keeps_the_parts(letters):
    reward = penalize_length(letters.count_a, price=1)
    envs = letters.vector(2, reward=reward, autoreset_mode="Disabled")
    envs.reset(options={"prompt": ["a", "a"]})
    rows = [[0, letters.EOS], [0, 0, letters.EOS]]
    played = envs.play(letters.completions_of(envs.prompt_batch, rows, 4))
    assert played.rewards_B.tolist() == pytest.approx([1.1 - 2, 2.1 - 3])
    assert played.parts["count_a"].tolist() == pytest.approx([1.1, 2.1])
    assert played.parts["length_penalty"].tolist() == [-2.0, -3.0]


def test_profanity():
    pytest.importorskip("profanity_check", reason="needs the extra profanity")
    clean, foul = make_reward("profanity")[1](
        prompts=["", ""], completions=["what a lovely garden", "you fucking idiot"]
    )
    assert -0.2 < clean <= 0
    assert -1 <= foul < -0.8
