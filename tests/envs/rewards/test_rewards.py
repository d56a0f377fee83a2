from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from bakeoff.envs.rewards.call import reward_name, score
from bakeoff.envs.rewards.resolve import contains, length, make_reward, regex, vader
from bakeoff.errors import ConfigError, NotFoundError, RewardError, UserError

PROMPTS = ["first", "second"]
COMPLETIONS = [" one", " two words"]
COLUMNS = {"completion_ids": [[1, 6], [1, 2, 3]], "prompt_index": [4, 5], "label": ["x", "y"]}


def values(reward):
    return score(reward, "mine", PROMPTS, COMPLETIONS, COLUMNS).tolist()


def test_a_function_written_for_trl_drops_in():
    def reward_func(completions, **kwargs):
        assert kwargs["prompts"] == PROMPTS
        assert kwargs["label"] == ["x", "y"]
        return [float(len(completion)) for completion in completions]

    assert values(reward_func) == [4.0, 10.0]


def test_a_function_gets_what_it_names():
    assert values(lambda completion_ids: [len(ids) for ids in completion_ids]) == [2.0, 3.0]
    assert values(lambda prompt_index, *, label: [n + len(x) for n, x in zip(prompt_index, label, strict=True)]) == [
        5,
        6,
    ]
    assert values(lambda completions, weight=2.0: [weight] * len(completions)) == [2.0, 2.0]


@pytest.mark.parametrize("returned", [np.array([1, 2]), torch.tensor([1.0, 2.0]), (1, 2.0), [np.float32(1), True + 1]])
def test_numbers_of_any_make_are_taken(returned):
    result = score(lambda completions: returned, "mine", PROMPTS, COMPLETIONS, COLUMNS)
    assert result.dtype == np.float64
    assert result.tolist() == [1.0, 2.0]


def test_nothing_to_score_asks_nobody():
    assert score(None, "mine", [], [], {}).shape == (0,)  # type: ignore[arg-type]


def explode(completions):
    raise KeyError("two\nlines")


async def later(completions):
    return [0.0, 0.0]


def positional(completions, /):
    return [0.0, 0.0]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda completions: [1.0], "returned 1 values for 2 completions .first prompt 'first'"),
        (lambda completions: 1.0, "returned float, expected a list of 2 numbers"),
        (lambda completions: "ab", "returned str, expected a list of 2 numbers"),
        (lambda completions: None, "returned NoneType"),
        (lambda completions: {"a": 1, "b": 2}, "returned dict"),
        (lambda completions: [1.0, None], "returned None for prompt 'second' and completion ' two words'"),
        (lambda completions: [float("nan"), 1.0], "returned nan for prompt 'first'"),
        (lambda completions: [1.0, float("-inf")], "returned -inf for prompt 'second'"),
        (lambda completions: [1.0, "2"], "returned '2' for prompt 'second'"),
        (lambda completions: [[1.0], [2.0]], r"returned \[1.0\] for prompt 'first'"),
        (lambda completions: torch.zeros(2, 3), r"returned \[0.0, 0.0, 0.0\] for prompt 'first'"),
        (lambda completions: [10**400, 1], "for prompt 'first'"),
        (lambda completions: sys.exit(3), r"raised SystemExit: 3 on prompt 'first'"),
        (explode, r"raised KeyError: 'two\\nlines' on prompt 'first' .first of 2 in its batch"),
        (later, "is asynchronous"),
        (positional, "positional-only"),
        (lambda p, c: [0.0, 0.0], 'reads "p", which is no column of the prompts'),
    ],
)
def test_a_bad_reward_is_named_with_its_prompt(reward, message):
    with pytest.raises(RewardError, match=message) as caught:
        values(reward)
    assert str(caught.value).startswith('reward "mine"')
    assert "\n" not in str(caught.value)


def test_vader_scores_prompt_and_completion_as_one_text():
    prompts, completions = ["The film was not"], [" good"]
    together = vader()(prompts=prompts, completions=completions)
    alone = vader(with_prompt=False)(prompts=prompts, completions=completions)
    # "good" has valence 1.9; compound = x / sqrt(x^2 + 15), and "not" before it multiplies x by -0.74.
    assert alone == [pytest.approx(1.9 / np.sqrt(1.9**2 + 15), abs=1e-4)]
    negated = -0.74 * 1.9
    assert together == [pytest.approx(negated / np.sqrt(negated**2 + 15), abs=1e-4)]


def test_vader_takes_an_empty_text():
    assert vader(with_prompt=False)(prompts=["x"], completions=[""]) == [0.0]


def test_length_counts_tokens_or_words():
    assert values(length()) == [2.0, 3.0]
    assert values(length(unit="words")) == [1.0, 2.0]
    assert values(length(target=5)) == [-3.0, -2.0]
    assert values(length(unit="words", target=1)) == [0.0, -1.0]


def test_contains_finds_one_of_several_texts():
    assert values(contains("WORD")) == [0.0, 1.0]
    assert values(contains("WORD", ignore_case=False)) == [0.0, 0.0]
    assert values(contains(["one", "two"])) == [1.0, 1.0]


def test_regex_searches_or_matches_the_whole():
    assert values(regex("w.r")) == [0.0, 1.0]
    assert values(regex(r"\s*\w+", whole=True)) == [1.0, 0.0]
    assert values(regex("ONE", ignore_case=True)) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: length(unit="lines"), "unit is 'lines'"),
        (lambda: length(target=-1), "target is -1"),
        (lambda: contains([]), "none of them empty"),
        (lambda: contains(""), "none of them empty"),
        (lambda: regex("("), "not a regular expression"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_make_reward_by_name_settings_or_function():
    name, reward = make_reward("vader")
    assert name == reward_name(reward) == "vader"
    name, reward = make_reward({"name": "length", "unit": "words"})
    assert (name, values(reward)) == ("length", [1.0, 2.0])
    name, reward = make_reward(explode)
    assert (name, reward) == ("explode", explode)


def test_make_reward_from_a_module_or_a_file(tmp_path):
    name, reward = make_reward("bakeoff.envs.rewards.resolve:length")
    assert (name, reward) == ("length", length)
    path = tmp_path / "my_rewards.py"
    path.write_text("def always_one(completions):\n    return [1.0] * len(completions)\n")
    name, reward = make_reward(f"{path}:always_one")
    assert (name, values(reward)) == ("always_one", [1.0, 1.0])
    with pytest.raises(UserError, match='has no function "missing"'):
        make_reward(f"{path}:missing")
    with pytest.raises(UserError, match="cannot be imported: FileNotFoundError"):
        make_reward(f"{tmp_path}/nowhere.py:x")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError"):
        make_reward("no_such_module_here:x")
    with pytest.raises(UserError, match="takes no settings; leave out weight"):
        make_reward({"name": f"{path}:always_one", "weight": 2})


def test_make_reward_names_what_is_wrong():
    with pytest.raises(NotFoundError, match=re.escape('no reward "vadr"; did you mean "vader"?')):
        make_reward("vadr")
    with pytest.raises(ConfigError, match='unknown setting "with_promt"; did you mean "with_prompt"'):
        make_reward({"name": "vader", "with_promt": True})
    with pytest.raises(UserError, match="has no name"):
        make_reward({"unit": "words"})


class Lying(list):
    """A sequence that says it has more than it gives."""

    def __len__(self):
        return 2


class Unspeakable(Exception):
    """Fails again when it is shown."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Unshowable(float):
    """A number whose text fails."""

    def __repr__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize("given", [[1.0], [], [1.0, 2.0, 3.0]])
def test_a_length_that_lies_leaves_nothing_unset(given):
    with pytest.raises(
        RewardError, match=rf'reward "mine" returned {len(given)} values for 2 completions \(first prompt'
    ):
        values(lambda completions: Lying(given))


@pytest.mark.parametrize("value", [1e308, -1e308, 2e100, 10**400])
def test_values_too_large_to_be_squared_are_refused(value):
    with pytest.raises(
        RewardError, match=r'reward "mine" returned .* for prompt \'second\' and completion .*\'; return one'
    ) as error:
        values(lambda completions: [0.0, value])
    assert len(str(error.value)) < 400
    assert values(lambda completions: [0.0, 1e100]) == [0.0, 1e100]


def test_errors_that_cannot_be_shown_are_one_line():
    def fails(completions):
        raise Unspeakable

    with pytest.raises(RewardError, match=r'reward "mine" raised Unspeakable on prompt \'first\''):
        values(fails)

    def breaks_off(completions):
        yield 1.0
        raise Unspeakable

    class Half(list):
        def __iter__(self):
            return breaks_off(None)

    with pytest.raises(RewardError, match=r'reward "mine" raised Unspeakable on prompt'):
        values(lambda completions: Half([1.0, 2.0]))
    with pytest.raises(RewardError, match=r'reward "mine" returned a Unshowable for prompt'):
        values(lambda completions: [Unshowable("nan"), 1.0])


def test_a_fork_that_returns_ends_there(tmp_path):
    code = f"""
import os, sys
from bakeoff.envs.rewards.call import score
def forks(completions):
    os.fork()
    return [1.0, 2.0]
score(forks, "mine", ["a", "b"], ["c", "d"], {{}})
open({str(tmp_path / "lived")!r}, "a").write("x")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert (tmp_path / "lived").read_text() == "x"
    assert 'reward "mine" forked a process that returned' in done.stderr
