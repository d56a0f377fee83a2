"""What happens from reset to the end of a completion, with every number worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bakeoff.envs.meter import Budget, Meter
from bakeoff.errors import ActionError, BakeoffError, EpisodeEndedError, PromptError, RewardError, UserError

EOS, PAD = 6, 7


def test_one_episode_token_by_token(letters):
    meter = Meter()
    env = letters.single(meter=meter)
    obs, info = env.reset(options={"prompt": "bc"})
    # The longest prompt has 3 letters and a completion at most 4: the prompt ends at the third place.
    assert obs["tokens"].tolist() == [PAD, 1, 2, PAD, PAD, PAD, PAD]
    assert obs["mask"].tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert info == {"prompt": "bc", "prompt_index": 1}

    obs, reward, terminated, truncated, info = env.step(0)
    assert obs["tokens"].tolist() == [PAD, 1, 2, 0, PAD, PAD, PAD]
    assert obs["mask"].tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert (reward, terminated, truncated, info) == (0.0, False, False, {})

    obs, reward, terminated, truncated, info = env.step(EOS)
    assert obs["tokens"].tolist() == [PAD, 1, 2, 0, EOS, PAD, PAD]
    assert obs["mask"].tolist() == [0, 1, 1, 1, 1, 0, 0]
    # One "a", and 2 letters of prompt at a tenth each.
    assert (reward, terminated, truncated) == (1.2, True, False)
    assert info == {"prompt": "bc", "prompt_index": 1, "completion": "a"}
    assert (meter.generated_tokens, meter.reward_queries) == (2, 1)


def test_limit_truncates_and_final_eos_terminates(letters):
    envs = letters.vector(2, autoreset_mode="Disabled")
    envs.reset(options={"prompt": ["a", "fed"]})
    for actions in ([0, 0], [0, 1], [2, 2]):
        _, rewards, terminated, truncated, infos = envs.step(np.array(actions))
        assert [rewards.any(), terminated.any(), truncated.any()] == [False] * 3
        assert infos == {}
    obs, rewards, terminated, truncated, infos = envs.step(np.array([0, EOS]))
    assert terminated.tolist() == [False, True]
    assert truncated.tolist() == [True, False]
    assert rewards.tolist() == [3.1, 1.3]
    assert infos["completion"].tolist() == ["aaca", "abc"]
    assert obs["mask"].tolist() == [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
    assert obs["tokens"].tolist() == [[PAD, PAD, 0, 0, 0, 2, 0], [5, 4, 3, 0, 1, 2, EOS]]


def test_a_completion_may_be_empty(letters):
    env = letters.single()
    env.reset(options={"prompt": "a"})
    _, reward, terminated, _, info = env.step(EOS)
    assert (reward, terminated, info["completion"]) == (0.1, True, "")


def test_with_one_new_token_every_step_is_the_last(letters):
    env = letters.single(max_new_tokens=1)
    env.reset(options={"prompt": "a"})
    assert env.step(0)[1:4] == (1.1, False, True)
    env.reset(options={"prompt": "a"})
    assert env.step(EOS)[1:4] == (0.1, True, False)


def test_rewards_of_a_step_are_scored_in_one_call(letters):
    calls = []

    def reward(prompts, completions, **columns):
        calls.append((prompts, completions, columns))
        return [1.0] * len(prompts)

    envs = letters.vector(3, reward=reward, autoreset_mode="Disabled", columns={"label": ["v", "w", "x", "y", "z"]})
    envs.reset(options={"prompt_indices": [0, 4, 2]})
    envs.step([0, 1, 2])
    envs.step([EOS, 1, EOS])
    assert calls == [
        (
            ["a", "abc"],
            ["a", "c"],
            {"completion_ids": [[0, EOS], [2, EOS]], "prompt_index": [0, 2], "label": ["v", "x"]},
        )
    ]


def test_play_is_stepping_every_completion_to_its_end(letters):
    """Every completion of up to two tokens and a sample of longer ones, played at once and token by token."""
    rows = [[EOS], *([t, EOS] for t in range(6)), *([s, t, EOS] for s, t in itertools.product(range(6), repeat=2))]
    rng = np.random.default_rng(0)
    rows += [rng.integers(0, 6, 4).tolist() for _ in range(20)]
    rows += [[*rng.integers(0, 6, 3).tolist(), EOS] for _ in range(20)]
    played_meter, stepped_meter = Meter(), Meter()
    envs = letters.vector(len(rows), autoreset_mode="Disabled", shared_prompts=True, seed=0, meter=played_meter)
    envs.reset()
    batch = envs.prompt_batch
    played = envs.play(letters.completions_of(batch, rows, 4))
    single = letters.single(meter=stepped_meter)
    for row, tokens in enumerate(rows):
        single.reset(options={"prompt_indices": int(batch.indices_B[row])})
        total = 0.0
        for token in tokens:
            obs, reward, terminated, truncated, info = single.step(token)
            total += reward
        assert terminated or truncated
        assert played.rewards_B[row] == torch.tensor(
            total, dtype=torch.float64
        )  # no discount: the return is the reward
        assert (bool(played.terminated_B[row]), bool(played.truncated_B[row])) == (terminated, truncated)
        assert (played.prompts[row], played.texts[row]) == (info["prompt"], info["completion"])
        final = envs._episodes.row_observation(row)
        assert np.array_equal(final["tokens"], obs["tokens"])
        assert np.array_equal(final["mask"], obs["mask"])
    assert played_meter == stepped_meter
    assert played_meter.generated_tokens == sum(map(len, rows))
    assert played_meter.reward_queries == len(rows)


def test_play_takes_completions_cut_where_all_have_ended(letters):
    envs = letters.vector(2, autoreset_mode="Disabled", seed=0)
    envs.reset(options={"prompt": "a"})
    played = envs.play(letters.completions_of(envs.prompt_batch, [[0, EOS], [EOS]], 2))
    assert played.rewards_B.tolist() == pytest.approx([1.1, 0.1])
    assert played.terminated_B.tolist() == [True, True]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 0], [EOS]], "completion 0 has 2 tokens and no end-of-sequence token at its end"),
        ([[EOS], [0, EOS, 1, 2]], "completion 1 continues after an end-of-sequence token"),
        ([[EOS], [0, EOS, EOS]], "completion 1 continues after an end-of-sequence token"),
        ([[EOS], []], "completion 1 has 0 tokens, expected 1 to 4"),
        ([[EOS], [0, 0, 0, 0, EOS]], "completion 1 has 5 tokens, expected 1 to 4"),
        ([[EOS], [PAD, EOS]], "token 7 .completion 1. is the padding token"),
        ([[EOS], [8, EOS]], "token 8 .completion 1. is outside the vocabulary; expected 0 to 7"),
        ([[EOS], [-1, EOS]], "token -1 .completion 1. is outside the vocabulary"),
        ([[EOS]], r"expected \(2, T\) twice"),
    ],
)
def test_play_refuses_what_stepping_could_not_have_made(letters, rows, message):
    envs = letters.vector(2, autoreset_mode="Disabled")
    envs.reset()
    batch = envs.prompt_batch
    completions = letters.completions_of(batch, rows, 5)
    with pytest.raises(ActionError, match=message):
        envs.play(completions)
    assert envs.meter == Meter()
    envs.play(letters.completions_of(batch, [[EOS], [EOS]], 4))  # nothing has happened


def test_play_refuses_a_mask_with_a_hole(letters):
    envs = letters.vector(1, autoreset_mode="Disabled")
    envs.reset()
    completions = letters.completions_of(envs.prompt_batch, [[0, 1, EOS]], 4)
    completions.mask_BT[0, 1] = False
    with pytest.raises(ActionError, match="hole"):
        envs.play(completions)


def test_play_needs_fresh_episodes(letters):
    envs = letters.vector(2, autoreset_mode="Disabled")
    envs.reset(options={"prompt_indices": [0, 1]})
    batch = envs.prompt_batch
    ended = letters.completions_of(batch, [[EOS], [EOS]], 4)
    with pytest.raises(UserError, match="answer other prompts"):
        envs.play(letters.completions_of(batch.select([1, 0]), [[EOS], [EOS]], 4))
    envs.play(ended)
    with pytest.raises(EpisodeEndedError, match="call reset"):
        envs.play(ended)
    envs.reset(options={"prompt_indices": [0, 1]})
    envs.step([0, 0])
    with pytest.raises(EpisodeEndedError, match="fresh"):
        envs.play(ended)
    with pytest.raises(UserError, match="DISABLED"):
        letters.vector(2, autoreset_mode="SameStep").play(ended)


def test_scoring_without_playing_counts_and_leaves_the_episodes(letters):
    envs = letters.vector(2, autoreset_mode="Disabled")
    envs.reset(options={"prompt_indices": [0, 4]})
    batch = envs.prompt_batch.repeat_interleave(2)
    rewards = envs.score_completions(letters.completions_of(batch, [[0, EOS], [EOS], [0, 0, EOS], [1, EOS]], 4))
    assert rewards.tolist() == pytest.approx([1.1, 0.1, 2.2, 0.2])
    assert (envs.meter.generated_tokens, envs.meter.reward_queries) == (8, 4)
    envs.step([0, 0])


def test_a_step_after_the_end_is_an_error_that_says_so(letters):
    env = letters.single()
    with pytest.raises(EpisodeEndedError, match="no episode has begun; call reset"):
        env.step(0)
    env.reset()
    env.step(EOS)
    with pytest.raises(EpisodeEndedError, match="the episode is over; call reset"):
        env.step(0)
    envs = letters.vector(2, autoreset_mode="Disabled")
    with pytest.raises(EpisodeEndedError, match="sub-environment 0 was stepped"):
        envs.step([0, 0])
    envs.reset()
    envs.step([0, EOS])
    with pytest.raises(EpisodeEndedError, match="sub-environment 1 was stepped after its episode's end; reset it"):
        envs.step([0, 0])
    with pytest.raises(EpisodeEndedError, match="no episode has begun"):
        _ = letters.vector(1).prompt_batch


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 8], "token 8 .sub-environment 1. is outside the vocabulary; expected 0 to 7"),
        ([-1, 0], "token -1 .sub-environment 0. is outside the vocabulary"),
        ([0, PAD], "token 7 .sub-environment 1. is the padding token"),
        ([0, 3], "token 3 .sub-environment 1. is a forbidden token"),
        ([0], r"shape \(1,\)"),
        ([[0, 0]], r"shape \(1, 2\)"),
        ([0.0, 1.0], "dtype float64, expected whole numbers"),
        ([True, False], "dtype bool"),
    ],
)
def test_an_action_that_nobody_may_take_changes_nothing(letters, actions, message):
    envs = letters.vector(2, token_mask=np.arange(8) != 3)
    envs.reset(seed=0)
    before = envs.state_dict()
    with pytest.raises(ActionError, match=message):
        envs.step(np.array(actions))
    assert envs.state_dict() == before
    assert envs.meter == Meter()


@pytest.mark.parametrize("action", [8, PAD, -1, 0.5, [0, 1], None, "a"])
def test_the_single_environment_refuses_it_too(letters, action):
    env = letters.single()
    env.reset()
    with pytest.raises(ActionError):
        env.step(action)
    assert env.meter == Meter()
    env.step(torch.tensor(0))
    env.step(np.array([0]))


def test_the_action_space_never_offers_a_forbidden_token(letters):
    mask = np.arange(8) % 3 > 0
    envs = letters.vector(4, token_mask=mask)
    envs.action_space.seed(0)
    seen = np.concatenate([envs.action_space.sample() for _ in range(100)])
    assert set(seen.tolist()) == {1, 2, 4, 5}
    envs.single_action_space.seed(0)
    assert {int(envs.single_action_space.sample()) for _ in range(100)} == {1, 2, 4, 5}
    assert envs.single_action_space.sample(np.eye(8, dtype=np.int8)[2]) == 2
    assert 1 in envs.single_action_space
    assert 0 not in envs.single_action_space
    assert np.array([1, 2, 4, 5]) in envs.action_space
    assert np.array([1, 2, 4, 7]) not in envs.action_space
    assert envs.action_masks().tolist() == [[False, True, True, False, True, True, False, False]] * 4


def test_a_failing_reward_is_reported_with_its_prompt(letters):
    envs = letters.vector(2, reward=lambda completions: [float("nan")] * len(completions), reward_name="broken")
    envs.reset(options={"prompt": "fed"})
    with pytest.raises(RewardError, match="reward \"broken\" returned nan for prompt 'fed' and completion ''"):
        envs.step([EOS, 0])
    assert envs.meter.reward_queries == 0


def test_observations_belong_to_the_caller(letters):
    envs = letters.vector(2)
    obs, _ = envs.reset(seed=0)
    kept = obs["tokens"].copy()
    envs.step([0, 0])
    assert np.array_equal(obs["tokens"], kept)
    obs["tokens"][:] = -5
    assert envs.step([0, 0])[0]["tokens"].min() >= 0


def test_progress_follows_the_budget(letters):
    envs = letters.vector(2, budget=Budget(generated_tokens=10, reward_queries=4), autoreset_mode="Disabled")
    assert letters.vector(1).progress == 0.0
    assert envs.progress == 0.0
    envs.reset()
    envs.step([EOS, 0])
    assert envs.progress == 0.25


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"prompts": ["a" * 13]}, PromptError, "too long"),
        ({"prompts": []}, PromptError, "at least one prompt"),
        ({"prompts": "abc"}, PromptError, "at least one prompt"),
        ({"max_new_tokens": 0}, UserError, "max_new_tokens is 0"),
        ({"max_new_tokens": True}, UserError, "max_new_tokens is True"),
        ({"columns": {"label": [1]}}, UserError, 'column "label" has 1 values for 5 prompts'),
        ({"max_prompt_tokens": 2}, PromptError, "prompt 'abc' has 3 tokens, max_prompt_tokens is 2"),
        ({"token_mask": [True] * 7}, UserError, "expected .8,. and bool"),
        ({"token_mask": np.arange(8) == PAD}, UserError, "forbids every token"),
        ({"render_mode": "rgb_array"}, UserError, "render_mode is 'rgb_array'"),
    ],
)
def test_settings_that_make_no_sense(letters, settings, error, message):
    for make in (letters.single, lambda **kw: letters.vector(2, **kw)):
        with pytest.raises(error, match=message) as caught:
            make(**settings)
        assert isinstance(caught.value, BakeoffError)


@pytest.mark.parametrize("num_envs", [0, -1, 2.0, True])
def test_a_number_of_environments_that_makes_no_sense(letters, num_envs):
    with pytest.raises(UserError, match="num_envs"):
        letters.vector(num_envs)
