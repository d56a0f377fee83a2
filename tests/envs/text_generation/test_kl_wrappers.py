from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.tasks.exact.task import MODEL
from bakeoff.envs.text_generation.env import TextGenerationEnv
from bakeoff.envs.text_generation.kl_wrappers import KLShaping, VectorKLShaping
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ActionError, UserError

EOS = 6


def constant(probability):
    return lambda observation, actions: np.full(len(actions), math.log(probability))


def test_each_token_pays_beta_times_the_log_ratio(letters):
    env = KLShaping(letters.single(), 0.5, reference=constant(0.25), policy=constant(0.5))
    env.reset(options={"prompt": "a"})
    price = 0.5 * math.log(2)  # 0.5 * (log 0.5 - log 0.25)
    assert env.step(0)[1] == pytest.approx(-price)
    assert env.step(0)[1] == pytest.approx(-price)
    _, reward, terminated, _, info = env.step(EOS)
    assert terminated
    assert reward == pytest.approx(2.1 - price)
    assert info["kl_shaping"] == pytest.approx(-price)
    assert info["completion"] == "aa"


def test_reference_logprob_alone_as_reward(letters):
    env = KLShaping(letters.single(kl_coef=0.3), reference=constant(0.25))
    env.reset(options={"prompt": "a"})
    assert env.step(0)[1] == pytest.approx(0.3 * math.log(0.25))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_the_vector_wrapper_equals_the_single_one(letters, mode):
    # Log-probabilities that tell apart any observation and action, so the right one must have been asked about.
    def reference(observation, actions):
        return -(observation["tokens"] * observation["mask"]).sum(1) - 0.1 * observation["mask"].sum(1) - actions

    ours = VectorKLShaping(letters.vector(3, autoreset_mode=mode), 0.5, reference=reference)
    theirs = SyncVectorEnv([lambda: KLShaping(letters.single(), 0.5, reference=reference)] * 3, autoreset_mode=mode)
    ours.reset(seed=1)
    theirs.reset(seed=1)
    ours.action_space.seed(0)
    for _ in range(60):
        actions = ours.action_space.sample()
        mine, other = ours.step(actions), theirs.step(actions)
        np.testing.assert_allclose(mine[1], other[1])
        np.testing.assert_equal(mine[0], other[0])
        assert mine[2].tolist() == other[2].tolist()
        mine[0]["tokens"][:] = 0  # the caller may write into what it gets


def test_kl_rewards_sum_to_the_log_ratio():
    """The default reference, on a real tiny model with padded prompts, against whole-sequence log-probabilities."""
    model, prompts = LanguageModel.load(MODEL), ["a b c", "d", "e f"]

    def reward(completions):
        return [0.0] * len(completions)

    envs = TextGenerationVectorEnv(3, model, prompts, reward, max_new_tokens=4, autoreset_mode="Disabled", kl_coef=1.0)
    shaped = VectorKLShaping(envs, policy=constant(0.5))
    shaped.reset(seed=0, options={"prompt_indices": [0, 1, 2]})
    completions = model.sample(envs.prompt_batch, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_BT = (model.token_logprobs(completions) - math.log(0.5) * completions.mask_BT).numpy()
    np.testing.assert_allclose(shaped.step(completions.tokens_BT[:, 0].numpy())[1], expected_BT[:, 0], atol=1e-5)

    single = KLShaping(TextGenerationEnv(model, prompts, reward, max_new_tokens=4), 1.0, policy=constant(0.5))
    for row, length in enumerate(completions.lengths_B.tolist()):
        single.reset(options={"prompt_indices": row})
        rewards = [single.step(token)[1] for token in completions.tokens_BT[row, :length].numpy()]
        np.testing.assert_allclose(rewards, expected_BT[row, :length], atol=1e-5)


def test_a_refused_action_is_not_charged(letters):
    env = VectorKLShaping(letters.vector(2), 0.5, reference=constant(0.25))
    env.reset()
    with pytest.raises(ActionError):
        env.step(np.array([0, 7]))
    assert env.step(np.array([0, 0]))[1].tolist() == pytest.approx([0.5 * math.log(0.25)] * 2)


@pytest.mark.parametrize("kl_coef", [-0.1, float("nan"), float("inf")])
def test_a_coefficient_that_makes_no_sense(letters, kl_coef):
    with pytest.raises(UserError, match="kl_coef"):
        KLShaping(letters.single(), kl_coef, reference=constant(0.5))


def test_it_is_a_gymnasium_wrapper(letters):
    env = KLShaping(letters.single(), 0.1, reference=constant(0.5))
    assert isinstance(env, gymnasium.Wrapper)
    assert isinstance(env, gymnasium.utils.RecordConstructorArgs)  # so that gymnasium.make can make it again
