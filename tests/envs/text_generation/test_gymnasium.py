"""Good citizenship: Gymnasium's and Stable-Baselines3's checkers, autoreset, wrappers, make, render, close."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env

from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.prompts import PromptSet

EOS = 6
TEXT_GENERATION = "bakeoff.envs:bakeoff/TextGeneration-v0"


@pytest.fixture
def task(letters):
    return Task("letters", letters.Model(), PromptSet(letters.PROMPTS, ("d", "e")), letters.count_a, 4, 0.3)


def test_both_checkers_pass_without_a_warning(task, capsys):
    env = gymnasium.make(TEXT_GENERATION, task=task)
    check_env(env.unwrapped)
    sb3_check_env(env.unwrapped, skip_render_check=False)
    for mode in ("ansi", "human"):
        rendered = gymnasium.make(TEXT_GENERATION, task=task, render_mode=mode)
        check_env(rendered.unwrapped)
        sb3_check_env(rendered.unwrapped, skip_render_check=False)


MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    seeds=st.one_of(st.integers(0, 2**31), st.lists(st.integers(0, 99), min_size=3, max_size=3)),
    data=st.data(),
)
def test_transitions_equal_gymnasiums_sync_vector(letters, mode, seeds, data):
    ours = letters.vector(3, autoreset_mode=mode)
    theirs = SyncVectorEnv([letters.single] * 3, autoreset_mode=mode)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.metadata == theirs.metadata
    assert data_equivalence(ours.reset(seed=seeds), theirs.reset(seed=seeds), exact=True)
    for _ in range(data.draw(st.integers(1, 14))):
        actions = np.array(data.draw(st.lists(st.integers(0, EOS), min_size=3, max_size=3)))
        mine, other = ours.step(actions), theirs.step(actions)
        assert data_equivalence(mine, other, exact=True)
        chosen = mine[2] | mine[3] if mode is AutoresetMode.DISABLED else np.zeros(3, dtype=bool)
        chosen |= data.draw(st.lists(st.sampled_from([False, False, False, True]), min_size=3, max_size=3))
        if chosen.any():
            reset = [envs.reset(options={"reset_mask": chosen.copy()}) for envs in (ours, theirs)]
            assert data_equivalence(*reset, exact=True)


def test_next_step_autoreset_ignores_the_action(letters):
    envs = letters.vector(2, seed=0)
    envs.reset()
    _, rewards, terminated, _, infos = envs.step([EOS, 0])
    assert terminated.tolist() == [True, False]
    assert infos["completion"].tolist() == ["", None]
    obs, rewards, terminated, truncated, infos = envs.step([99, 0])
    assert (rewards.tolist(), terminated.any(), truncated.any()) == ([0.0, 0.0], False, False)
    assert infos["_prompt"].tolist() == [True, False]
    assert obs["mask"][0, 3:].tolist() == [0, 0, 0, 0]
    assert obs["mask"][1, 3:].tolist() == [1, 1, 0, 0]
    assert envs.meter.generated_tokens == 3


def test_same_step_hands_over_the_last_observation_and_info(letters):
    envs = letters.vector(2, autoreset_mode="SameStep")
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    envs.reset(seed=0, options={"prompt": "fed"})
    obs, rewards, terminated, _, infos = envs.step([EOS, 0])
    assert rewards.tolist() == [0.3, 0.0]
    assert terminated.tolist() == [True, False]
    assert infos["final_obs"][0]["tokens"].tolist() == [5, 4, 3, EOS, 7, 7, 7]
    assert infos["final_obs"][1] is None
    assert infos["final_info"]["completion"].tolist() == ["", None]
    assert infos["final_info"]["prompt"][0] == "fed"
    assert infos["_final_info"].tolist() == infos["_final_obs"].tolist() == [True, False]
    assert infos["_prompt"].tolist() == [True, False]  # of the new episode
    assert obs["mask"][0, 3:].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_wrappers_count_the_right_returns(letters, mode):
    envs = RecordEpisodeStatistics(letters.vector(2, autoreset_mode=mode))
    envs.reset(seed=0, options={"prompt": "a"})
    envs.step(np.array([0, 0]))
    *_, infos = envs.step(np.array([EOS, 0]))
    assert infos["episode"]["r"].tolist() == [1.1, 0.0]
    assert infos["episode"]["l"].tolist() == [2, 0]
    if mode is AutoresetMode.DISABLED:
        envs.reset(options={"reset_mask": np.array([True, False])})
    else:
        envs.step(np.array([EOS, 0]))
    *_, infos = envs.step(np.array([0, EOS]))
    assert infos["_episode"].tolist()[1]
    assert infos["episode"]["r"][1] == pytest.approx(2.1 if mode is AutoresetMode.DISABLED else 3.1)


def test_infos_split_into_a_list(letters):
    envs = DictInfoToList(letters.vector(2))
    _, infos = envs.reset(options={"prompt": ["a", "bc"]})
    assert infos == [{"prompt": "a", "prompt_index": 0}, {"prompt": "bc", "prompt_index": 1}]


def test_it_crosses_process_boundaries(letters):
    envs = AsyncVectorEnv([letters.single] * 2, context="fork", shared_memory=True)
    try:
        assert data_equivalence(envs.reset(seed=3)[0], letters.vector(2).reset(seed=3)[0])
        assert envs.action_space == letters.vector(2).action_space
    finally:
        envs.close()


def test_make_and_make_vec_play_the_same(task):
    single = gymnasium.make(TEXT_GENERATION, task=task, split="evaluation")
    assert single.reset(options={"prompt_indices": 1})[1]["prompt"] == "e"
    assert single.spec.kwargs["task"] is task  # a copy of the task would be a copy of the model
    ours = gymnasium.make_vec(TEXT_GENERATION, num_envs=3, task=task)
    theirs = gymnasium.make_vec(TEXT_GENERATION, num_envs=3, vectorization_mode="sync", task=task)
    assert ours.kl_coef == 0.3
    assert ours.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert str(ours) == "TextGenerationVectorEnv(bakeoff/TextGeneration-v0, num_envs=3)"
    assert data_equivalence(ours.reset(seed=4), theirs.reset(seed=4), exact=True)
    ours.action_space.seed(0)
    for _ in range(20):
        actions = ours.action_space.sample()
        assert data_equivalence(ours.step(actions), theirs.step(actions), exact=True)
    disabled = gymnasium.make_vec(TEXT_GENERATION, num_envs=2, task=task, autoreset_mode="Disabled", max_new_tokens=1)
    assert disabled.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert disabled.max_new_tokens == 1


def test_stable_baselines_vectorizes_it(task):
    envs = make_vec_env(TEXT_GENERATION, n_envs=2, env_kwargs={"task": task}, seed=0)
    envs.reset()
    obs, rewards, dones, infos = envs.step(np.array([EOS, 0]))
    assert dones.tolist() == [True, False]
    assert rewards[0] == pytest.approx(len(infos[0]["prompt"]) / 10)
    assert infos[0]["terminal_observation"]["tokens"][3] == EOS
    assert infos[0]["TimeLimit.truncated"] is False
    assert obs["mask"].shape == (2, 7)
    for _ in range(3):
        obs, rewards, dones, infos = envs.step(np.array([0, 0]))
    assert infos[1]["TimeLimit.truncated"] is True


@pytest.mark.slow
def test_a_task_by_its_name():
    envs = gymnasium.make_vec(TEXT_GENERATION, num_envs=2, task="exact")
    obs, _ = envs.reset(seed=0)
    assert obs["tokens"].shape == (2, 7)
    envs.close()
    assert gymnasium.make(TEXT_GENERATION).unwrapped.max_new_tokens == 5


@pytest.mark.parametrize("make", ["gymnasium.make", "gymnasium.make_vec"])
def test_our_id_needs_no_import_of_ours(make):
    code = f"import gymnasium; print({make}({TEXT_GENERATION!r}).spec.id)"
    assert python(code) == "bakeoff/TextGeneration-v0\n"


def test_importing_our_environments_is_light():
    heavy = ("torch", "transformers", "pandas", "stable_baselines3")
    code = (
        "import sys, gymnasium, bakeoff; assert 'bakeoff/TextGeneration-v0' not in gymnasium.registry;"
        "import bakeoff.envs; assert 'bakeoff/TextGeneration-v0' in gymnasium.registry;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert python(code) == "[]\n"


def python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_render_shows_one_line_a_completion(letters, capsys):
    env = letters.single(render_mode="ansi")
    assert env.render() == "(not reset)"
    env.reset(options={"prompt": "bc"})
    env.step(0)
    assert env.render() == "[  1/4 open] bc | a"
    env.step(EOS)
    assert env.render() == "[  2/4 ended] bc | a"
    envs = letters.vector(2, render_mode="ansi")
    envs.reset(options={"prompt": "a"})
    assert envs.render() == ("[  0/4 open] a | ", "[  0/4 open] a | ")
    assert capsys.readouterr().out == ""


def test_human_rendering_prints_every_step(letters, capsys):
    env = letters.single(render_mode="human")
    env.reset(options={"prompt": "a"})
    env.step(1)
    assert env.render() is None
    assert capsys.readouterr().out == "[  0/4 open] a | \n[  1/4 open] a | b\n[  1/4 open] a | b\n"
    envs = letters.vector(2, render_mode="human")
    envs.reset(options={"prompt": "a"})
    assert envs.render() is None
    assert capsys.readouterr().out == "[  0/4 open] a | \n" * 4


def test_rendered_text_cannot_steer_the_terminal(letters):
    class Hostile(letters.Model):
        def decode(self, tokens_BT, mask_BT):
            return ["\x1b[2J\n\u202e"] * len(tokens_BT)

    env = letters.single(model=Hostile(), render_mode="ansi")
    env.reset()
    assert r"\x1b[2J\n\u202e" in env.render()
    assert "\x1b" not in env.render()


def test_render_without_a_mode_warns(letters):
    for env in (letters.single(), letters.vector(2)):
        env.reset()
        with pytest.warns(UserWarning, match="render_mode"):
            assert env.render() is None


def test_close_may_come_twice(letters):
    envs = letters.vector(2)
    envs.close()
    envs.close()
    assert envs.closed
    env = letters.single()
    env.close()
    env.close()


def test_actions_may_be_tensors(letters):
    envs = letters.vector(2, seed=0)
    envs.reset()
    assert envs.step(torch.tensor([EOS, 0]))[2].tolist() == [True, False]
