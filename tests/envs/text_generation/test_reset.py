"""Which prompts episodes begin with: drawn, named, grouped, or some sub-environments only; and the saved state."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bakeoff.errors import PromptError, UserError

EOS = 6


def test_a_shared_order_gives_every_prompt_once(letters):
    envs = letters.vector(2, shared_prompts=True, seed=0, autoreset_mode="Disabled")
    drawn = np.concatenate([envs.reset()[1]["prompt_index"] for _ in range(10)]).reshape(4, 5)
    assert (np.sort(drawn, 1) == np.arange(5)).all()


def test_own_orders_give_each_environment_every_prompt(letters):
    envs = letters.vector(2, seed=0)
    drawn = np.array([envs.reset()[1]["prompt_index"] for _ in range(10)])
    assert (np.sort(drawn[:5], 0) == np.arange(5)[:, None]).all()
    assert (np.sort(drawn[5:], 0) == np.arange(5)[:, None]).all()
    assert not np.array_equal(drawn[:, 0], drawn[:, 1])


def test_groups_share_a_prompt_side_by_side(letters):
    for shared in (True, False):
        envs = letters.vector(6, shared_prompts=shared, seed=0, autoreset_mode="Disabled")
        drawn = np.concatenate([envs.reset(options={"group_size": 3})[1]["prompt_index"] for _ in range(5)])
        groups = drawn.reshape(-1, 3)
        assert (groups == groups[:, :1]).all()
        if shared:
            assert sorted(groups[:5, 0]) == sorted(groups[5:, 0]) == [0, 1, 2, 3, 4]


def test_a_group_draws_from_its_first_environments_order(letters):
    envs, twin = letters.vector(6, seed=0), letters.vector(6, seed=0)
    drawn = [envs.reset(options={"group_size": 3})[1]["prompt_index"][[0, 3]].tolist() for _ in range(5)]
    assert drawn == [twin.reset()[1]["prompt_index"][[0, 3]].tolist() for _ in range(5)]


def test_a_text_that_comes_twice_is_its_first_place(letters):
    env = letters.single(prompts=["a", "bc", "a"])
    assert env.reset(options={"prompt": "a"})[1]["prompt_index"] == 0
    assert env.reset(options={"prompt_indices": 2})[1] == {"prompt": "a", "prompt_index": 2}


def test_a_reset_in_the_place_of_an_autoreset_counts(letters):
    envs = letters.vector(2)
    envs.reset(seed=0)
    envs.step([EOS, 0])
    envs.reset(options={"prompt": "a"})
    assert envs.step([0, 0])[0]["mask"].tolist() == [[0, 0, 1, 1, 0, 0, 0]] * 2


def test_single_environment_draws_from_its_generator(letters):
    env = letters.single()
    env.reset(seed=3)
    fresh = np.random.default_rng(3).bit_generator.state
    assert env.np_random_seed == 3
    assert env.np_random.bit_generator.state != fresh


def test_named_prompts_leave_the_order_alone(letters):
    envs, twin = letters.vector(2, seed=3), letters.vector(2, seed=3)
    _, info = envs.reset(options={"prompt": ["fed", "a"]})
    assert info["prompt"].tolist() == ["fed", "a"]
    assert info["prompt_index"].tolist() == [3, 0]
    envs.reset(options={"prompt_indices": 2})
    assert envs.prompt_batch.indices_B.tolist() == [2, 2]
    assert envs.prompt_batch.tokens_BP.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert envs.prompt_batch.mask_BP.all()
    assert envs.reset()[1]["prompt_index"].tolist() == twin.reset()[1]["prompt_index"].tolist()


def test_a_prompt_of_the_callers_own(letters):
    seen = []

    def reward(prompts, completions, prompt_index, label):
        seen.append((prompts, prompt_index, label))
        return [0.0] * len(prompts)

    env = letters.single(reward=reward, columns={"label": list("vwxyz")}, max_prompt_tokens=5)
    obs, info = env.reset(options={"prompt": "dead"})
    assert obs["tokens"].tolist() == [7, 3, 4, 0, 3, 7, 7, 7, 7]
    assert info == {"prompt": "dead", "prompt_index": -1}
    env.step(EOS)
    assert seen == [(["dead"], [-1], [None])]
    with pytest.raises(PromptError, match=r"has 6 tokens, the observation holds 5; .* larger max_prompt_tokens"):
        env.reset(options={"prompt": "fadeda"})
    with pytest.raises(PromptError, match="too long"):
        env.reset(options={"prompt": "a" * 13})


def test_a_reset_mask_resets_only_those(letters):
    envs = letters.vector(3, autoreset_mode="Disabled", seed=0)
    envs.reset(options={"prompt": ["a", "bc", "fed"]})
    _, _, terminated, truncated, _ = envs.step([EOS, 1, EOS])
    options = {"reset_mask": terminated | truncated, "prompt": ["ff", "ff", "abc"]}
    obs, info = envs.reset(options=options)
    assert options.keys() == {"reset_mask", "prompt"}  # wrappers read it after us
    assert info["prompt"].tolist() == ["ff", None, "abc"]
    assert info["_prompt"].tolist() == [True, False, True]
    assert obs["mask"].tolist() == [[0, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]]
    _, _, terminated, _, info = envs.step([EOS, EOS, 0])
    assert terminated.tolist() == [True, True, False]
    assert info["completion"].tolist() == ["", "b", None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"promt": "a"}, 'no option "promt"; did you mean "prompt"'),
        ({"prompt": "a", "prompt_indices": 0}, "prompt and prompt_indices exclude each other"),
        ({"prompt": ["a", "bc", "a"]}, "a list of 2 texts"),
        ({"prompt": 3}, "a list of 2 texts"),
        ({"prompt": ["a", 3]}, "prompt 3 is not a text"),
        ({"prompt_indices": 5}, "from 5 to 5, expected 0 to 4"),
        ({"prompt_indices": [-1, 0]}, "from -1 to 0, expected 0 to 4"),
        ({"prompt_indices": [0, 1, 2]}, "prompt_indices must be a whole number or 2 of them"),
        ({"prompt_indices": 0.5}, "prompt_indices must be a whole number"),
        ({"group_size": 3}, r"group_size is 3, expected a whole number that divides num_envs \(2\)"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": 2, "reset_mask": np.array([True, False])}, "leave out reset_mask"),
        ({"reset_mask": [True, False]}, "numpy array of bool"),
        ({"reset_mask": np.array([1, 0])}, "numpy array of bool of shape .2,., got int64"),
        ({"reset_mask": np.array([True])}, "numpy array of bool"),
        ({"reset_mask": np.array([False, False])}, "False everywhere"),
    ],
)
def test_options_that_make_no_sense(letters, options, message):
    envs = letters.vector(2, autoreset_mode="Disabled")
    envs.reset()
    with pytest.raises(UserError, match=message):
        envs.reset(options=options)


def test_the_first_reset_is_of_all(letters):
    with pytest.raises(UserError, match="first reset must reset every"):
        letters.vector(2).reset(options={"reset_mask": np.array([True, False])})


def test_seeds_repeat_and_differ(letters):
    def run(envs, seed):
        first = envs.reset(seed=seed)[1]["prompt_index"].tolist()
        return [first, *(envs.reset()[1]["prompt_index"].tolist() for _ in range(12))]

    envs = letters.vector(3)
    assert run(envs, 1) == run(letters.vector(3), 1) == run(envs, 1)
    assert run(envs, 1) != run(envs, 2)
    by_construction = letters.vector(3, seed=1)
    assert [by_construction.reset()[1]["prompt_index"].tolist() for _ in range(13)] == run(envs, 1)
    assert envs.np_random_seed == (1, 2, 3)
    envs.reset(seed=[7, None, 9])
    assert envs.np_random_seed == (7, 2, 9)
    assert len(envs.np_random) == 3
    shared = letters.vector(3, shared_prompts=True)
    assert run(shared, 1) == run(shared, 1)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_saved_environment_goes_on_exactly(letters, mode, shared):
    settings = {"autoreset_mode": mode, "shared_prompts": shared, "max_prompt_tokens": 5}
    envs = letters.vector(3, **settings)
    envs.reset(seed=0, options={"prompt": ["a", "dead", "fed"]})
    envs.action_space.seed(0)
    for _ in range(7):
        envs.step(envs.action_space.sample())
    state = json.loads(json.dumps(envs.state_dict()))
    other = letters.vector(3, **settings)
    other.load_state_dict(state)
    for _ in range(40):
        actions = envs.action_space.sample()
        ours, theirs = envs.step(actions), other.step(actions)
        for a, b in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_equal(a, b)
        assert ours[4].keys() == theirs[4].keys()
    assert envs.state_dict() == other.state_dict()


def test_a_saved_order_of_played_batches_goes_on_exactly(letters):
    envs = letters.vector(2, autoreset_mode="Disabled", shared_prompts=True, seed=0)
    for _ in range(3):
        envs.reset()
        envs.play(letters.completions_of(envs.prompt_batch, [[EOS], [0, EOS]], 4))
    state = json.loads(json.dumps(envs.state_dict()))
    assert state["episodes"] is None
    ahead = [envs.reset()[1]["prompt_index"].tolist() for _ in range(8)]
    other = letters.vector(2, autoreset_mode="Disabled", shared_prompts=True, seed=9)
    other.load_state_dict(state)
    assert [other.reset()[1]["prompt_index"].tolist() for _ in range(8)] == ahead


def test_a_state_of_another_environment_is_refused(letters):
    state = letters.vector(2).state_dict()
    with pytest.raises(UserError, match="of 2 sub-environments, there are 3"):
        letters.vector(3).load_state_dict(state)
    with pytest.raises(UserError, match="2 prompt orders, this environment 1"):
        letters.vector(2, shared_prompts=True).load_state_dict(state)
    with pytest.raises(UserError, match="over 5 prompts, this environment has 1"):
        letters.vector(2, prompts=["a"]).load_state_dict(state)
