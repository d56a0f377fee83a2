"""TopTokens: the right tokens, the right states after any pattern of restarts, the right price; and Stable-Baselines3's view."""

from __future__ import annotations

import math
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.tasks.exact.task import MODEL
from bakeoff.envs.tasks.prompts import PromptSet
from bakeoff.envs.text_generation import incremental_hidden
from bakeoff.envs.text_generation.env import TextGenerationEnv
from bakeoff.envs.text_generation.sb3_vec_env import SB3VecEnv
from bakeoff.envs.text_generation.top_tokens import TopTokens, VectorTopTokens
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ActionError, UserError

TEXT_GENERATION = "bakeoff.envs:bakeoff/TextGeneration-v0"
PROMPTS = ("a b c", "d", "e f", "g g a b")
T, EOS = 5, 7
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


def words(prompts, completions):
    return [len(text.split()) + len(prompt) / 10 for prompt, text in zip(prompts, completions, strict=True)]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load(MODEL).freeze()


def vector(model, num_envs=4, **settings):
    return TextGenerationVectorEnv(num_envs, model, PROMPTS, words, max_new_tokens=T, kl_coef=0.3, **settings)


def single(model, **settings):
    return TextGenerationEnv(model, PROMPTS, words, max_new_tokens=T, kl_coef=0.3, **settings)


@torch.no_grad()
def fresh(model, observation):
    """The hidden state and the log-probabilities after a token observation's newest token, by a forward pass of its own."""
    tokens, mask = observation["tokens"], observation["mask"].astype(bool)
    ids = torch.from_numpy(tokens[mask])[None]
    hidden = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool))[0, -1]
    return hidden.numpy(), model.head(hidden).log_softmax(0).numpy()


def row_of(observation, row):
    return {name: values[row] for name, values in observation.items()}


# ---------------------------------------------------------------- states, tokens


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cached", [True, False])
def test_states_equal_fresh_forward_passes(model, mode, cached, monkeypatch):
    if not cached:  # as for families whose cache is more than keys and values
        monkeypatch.setattr(incremental_hidden, "DynamicLayer", object)
    ours = VectorTopTokens(vector(model, autoreset_mode=mode), 3)
    plain = vector(model, autoreset_mode=mode)
    states, _ = ours.reset(seed=5)
    observation, _ = plain.reset(seed=5)
    rng, restarts = np.random.default_rng(0), 0
    for _ in range(25):
        for row in range(4):
            hidden, logprobs = fresh(model, row_of(observation, row))
            np.testing.assert_allclose(states[row], hidden, atol=2e-5)
            best = np.argsort(-logprobs)[:3]
            assert ours.tokens_BK[row].tolist() == best.tolist()
            np.testing.assert_allclose(ours.logprobs_BK[row], logprobs[best], atol=2e-5)
        actions = rng.integers(3, size=4)
        tokens = ours.tokens_BK[np.arange(4), actions]
        states, rewards, terminated, truncated, infos = ours.step(actions)
        observation, bare, *ends, plain_infos = plain.step(tokens)
        np.testing.assert_allclose(rewards - infos["kl_shaping"], bare, atol=1e-9)
        assert [terminated.tolist(), truncated.tolist()] == [end.tolist() for end in ends]
        done = terminated | truncated
        if mode is AutoresetMode.SAME_STEP and done.any():
            for row in np.flatnonzero(done):
                last = fresh(model, plain_infos["final_obs"][row])[0]
                np.testing.assert_allclose(infos["final_obs"][row], last, atol=2e-5)
            assert all(infos["final_obs"][row] is None for row in np.flatnonzero(~done))
        if mode is AutoresetMode.DISABLED and done.any():
            states, _ = ours.reset(options={"reset_mask": done})
            observation, _ = plain.reset(options={"reset_mask": done})
        restarts += int(done.any() and not done.all())
    assert restarts > 3


def test_forbidden_tokens_are_never_among_the_k(model):
    mask = np.ones(8, dtype=bool)
    mask[[0, 3]] = False
    envs = VectorTopTokens(vector(model, token_mask=mask), 4, kl_coef=0)
    envs.reset(seed=0)
    for _ in range(10):
        assert not np.isin(envs.tokens_BK, [0, 3]).any()
        envs.step(np.random.default_rng(0).integers(4, size=4))
    with pytest.raises(UserError, match="1 to 6"):
        VectorTopTokens(vector(model, token_mask=mask), 7)
    six = VectorTopTokens(vector(model, token_mask=mask), 6)
    six.reset(seed=0)
    assert six.tokens_BK.tolist() == [[1, 2, 4, 5, 6, 7]] * 4  # nothing to choose: by their ids, in every state


def test_log_probabilities_are_over_the_whole_vocabulary(model):
    envs = VectorTopTokens(vector(model), 2)
    envs.reset(seed=0)
    mass_B = np.exp(envs.logprobs_BK).sum(1)
    assert (mass_B < 0.999).all()
    everything = VectorTopTokens(vector(model), 8)
    everything.reset(seed=0)
    np.testing.assert_allclose(np.exp(everything.logprobs_BK).sum(1), 1, atol=1e-5)


def test_the_choices_can_be_shown(model):
    envs = VectorTopTokens(vector(model), 3, show_choices=True)
    states, _ = envs.reset(seed=0)
    assert states.shape == (4, model.width + 6) == envs.observation_space.shape
    np.testing.assert_array_equal(states[:, -6:-3], envs.logprobs_BK)
    np.testing.assert_array_equal(states[:, -3:], envs.tokens_BK)


# ---------------------------------------------------------------- the KL penalty


def test_kl_costs_sum_to_beta_times_the_log_ratio(model):
    envs = vector(model, autoreset_mode="Disabled")
    shaped = VectorTopTokens(envs, 8, policy=lambda states, actions: np.full(len(actions), math.log(0.5)))
    shaped.reset(seed=1)
    completions = model.sample(envs.prompt_batch, T, torch.Generator().manual_seed(3))
    with torch.no_grad():
        reference_BT = model.token_logprobs(completions).numpy()
    expected_B = -0.3 * (math.log(0.5) - reference_BT[:, 0])  # the first token of each
    _, rewards, terminated, truncated, infos = shaped.step(completions.tokens_BT[:, 0].numpy())
    going = ~(terminated | truncated)
    np.testing.assert_allclose(rewards[going], expected_B[going], atol=1e-5)
    np.testing.assert_allclose(infos["log_ratio"], math.log(0.5) - reference_BT[:, 0], atol=1e-5)

    one = TopTokens(single(model), 8, policy=shaped.policy)
    for row, length in enumerate(completions.lengths_B.tolist()):
        prompt = int(completions.prompts.indices_B[row])
        one.reset(options={"prompt_indices": prompt})
        rewards = [one.step(token)[1] for token in completions.tokens_BT[row, :length].numpy()]
        text = model.decode(completions.tokens_BT[row : row + 1], completions.mask_BT[row : row + 1])
        log_ratio = length * math.log(0.5) - reference_BT[row].sum()
        assert sum(rewards) == pytest.approx(words([PROMPTS[prompt]], text)[0] - 0.3 * log_ratio, abs=1e-4)


def test_without_a_policy_an_action_counts_as_certain(model):
    envs = VectorTopTokens(vector(model), 3, kl_coef=0.5)
    envs.reset(seed=0)
    first = envs.logprobs_BK[:, 1].copy()
    _, rewards, terminated, _, _ = envs.step(np.ones(4, dtype=int))
    np.testing.assert_allclose(rewards[~terminated], 0.5 * first[~terminated], rtol=1e-6)
    free = VectorTopTokens(vector(model), 3, kl_coef=0)
    free.reset(seed=0)
    assert free.step(np.ones(4, dtype=int))[1][~terminated].tolist() == [0] * int((~terminated).sum())


def test_the_policy_sees_the_state_in_which_it_acted(model):
    seen = []

    def policy(states, actions):
        seen.append((states.copy(), actions.copy()))
        return np.zeros(len(actions))

    envs = VectorTopTokens(vector(model), 3, policy=policy)
    before, _ = envs.reset(seed=0)
    after = envs.step(np.array([0, 1, 2, 0]))[0]
    np.testing.assert_array_equal(seen[0][0], before)
    assert seen[0][1].tolist() == [0, 1, 2, 0]
    assert not np.array_equal(before, after)


# ---------------------------------------------------------------- good citizenship


def test_both_checkers_pass_without_a_warning(model):
    task = Task("words", model, PromptSet(PROMPTS, ("f",)), words, T, 0.3)
    env = TopTokens(gymnasium.make(TEXT_GENERATION, task=task), 5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")  # it is a wrapper
        check_env(env, skip_render_check=True)
    sb3_check_env(env)


def test_the_vector_wrapper_equals_the_single_one(model):
    ours = VectorTopTokens(vector(model, 2, autoreset_mode="SameStep"), 4)
    theirs = [TopTokens(single(model), 4) for _ in range(2)]
    states, _ = ours.reset(seed=3)
    alone = [env.reset(seed=3 + row)[0] for row, env in enumerate(theirs)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        np.testing.assert_allclose(states, alone, atol=2e-5)
        actions = rng.integers(4, size=2)
        states, rewards, terminated, truncated, infos = ours.step(actions)
        for row, env in enumerate(theirs):
            assert env.tokens_K[actions[row]] >= 0
            alone[row], reward, *ends, info = env.step(actions[row])
            assert ends == [terminated[row], truncated[row]]
            assert reward == pytest.approx(rewards[row], abs=1e-5)
            if any(ends):
                np.testing.assert_allclose(infos["final_obs"][row], alone[row], atol=2e-5)
                assert infos["final_info"]["completion"][row] == info["completion"]
                alone[row] = env.reset()[0]


def test_it_goes_on_bit_for_bit_from_its_state(model):
    envs = vector(model, autoreset_mode="SameStep")
    first = VectorTopTokens(envs, 4)
    first.reset(seed=0)
    rng = np.random.default_rng(1)
    for _ in range(7):
        first.step(rng.integers(4, size=4))
    inner, outer = envs.state_dict(), first.state_dict()
    actions = rng.integers(4, size=(9, 4))
    expected = [first.step(a)[:2] for a in actions]
    other = vector(model, autoreset_mode="SameStep")
    second = VectorTopTokens(other, 4)
    other.load_state_dict(inner)
    second.load_state_dict(outer)
    for a, (states, rewards) in zip(actions, expected, strict=True):
        mine = second.step(a)
        np.testing.assert_array_equal(mine[0], states)
        np.testing.assert_array_equal(mine[1], rewards)


def test_what_makes_no_sense_is_refused_and_changes_nothing(model):
    for k in (0, 9, 2.5, True):
        with pytest.raises(UserError, match="1 to 8"):
            VectorTopTokens(vector(model), k)
    with pytest.raises(UserError, match="kl_coef"):
        TopTokens(single(model), 3, kl_coef=-1)
    envs = VectorTopTokens(vector(model), 3)
    with pytest.raises(UserError, match="reset"):
        envs.step(np.zeros(4, dtype=int))
    before, _ = envs.reset(seed=0)
    for actions in ([0, 3, 0, 0], [0, 0, -1, 0], [0, 0], [0.0, 0, 0, 0]):
        with pytest.raises(ActionError):
            envs.step(np.array(actions))
    twin = VectorTopTokens(vector(model), 3)
    np.testing.assert_array_equal(twin.reset(seed=0)[0], before)
    np.testing.assert_array_equal(twin.step(np.ones(4, int))[0], envs.step(np.ones(4, int))[0])


# ---------------------------------------------------------------- as Stable-Baselines3 sees it


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_it_plays_what_stable_baselines_own_vectorization_plays(model, mode):
    task = Task("words", model, PromptSet(PROMPTS, ("f",)), words, T, 0.3)
    theirs = make_vec_env(
        TEXT_GENERATION, n_envs=3, seed=4, env_kwargs={"task": task}, wrapper_class=TopTokens, wrapper_kwargs={"k": 4}
    )
    envs = gymnasium.make_vec(TEXT_GENERATION, num_envs=3, task=task, autoreset_mode=mode)
    ours = SB3VecEnv(VectorTopTokens(envs, 4), bootstrap=True)
    ours.seed(4)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), atol=2e-5)
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    assert [info["prompt"] for info in ours.reset_infos] == [info["prompt"] for info in theirs.reset_infos]
    rng, ended = np.random.default_rng(0), 0
    for _ in range(30):
        actions = rng.integers(4, size=3)
        mine, other = ours.step(actions), theirs.step(actions)
        np.testing.assert_allclose(mine[0], other[0], atol=2e-5)
        np.testing.assert_allclose(mine[1], other[1], atol=1e-5)
        assert mine[2].tolist() == other[2].tolist()
        for row in np.flatnonzero(mine[2]):
            ended += 1
            a, b = mine[3][row], other[3][row]
            assert a["TimeLimit.truncated"] is bool(b["TimeLimit.truncated"])
            assert (a["completion"], a["prompt"]) == (b["completion"], b["prompt"])
            np.testing.assert_allclose(a["terminal_observation"], b["terminal_observation"], atol=2e-5)
            assert ours.reset_infos[row]["prompt"] == theirs.reset_infos[row]["prompt"]
        assert all("terminal_observation" not in mine[3][row] for row in np.flatnonzero(~mine[2]))
    assert ended > 10


def test_a_length_limit_terminates_by_default(model):
    envs = SB3VecEnv(vector(model, 1, autoreset_mode="SameStep", token_mask=np.arange(8) != EOS))
    observation = envs.reset()
    assert observation["tokens"].shape == (1, 4 + T)  # any Gymnasium vector environment will do
    for _ in range(T):
        _, _, dones, infos = envs.step(np.zeros(1, dtype=int))
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"] is False
    assert infos[0]["terminal_observation"]["tokens"][-T:].tolist() == [0] * T


def test_the_rest_of_stable_baselines_interface(model):
    envs = SB3VecEnv(VectorTopTokens(vector(model, 2, autoreset_mode="SameStep"), 3))
    assert envs.get_attr("k") == [3, 3]
    assert envs.get_attr("k", 1) == [3]
    assert envs.env_is_wrapped(gymnasium.Wrapper) == [False, False]
    assert not envs.has_attr("nonsense")
    envs.set_attr("policy", None)
    with pytest.raises(UserError, match="indices"):
        envs.set_attr("policy", None, indices=0)
    envs.set_options({"prompt": "d"})
    envs.reset()
    assert [info["prompt"] for info in envs.reset_infos] == ["d", "d"]
    drawn = []
    for _ in range(2):  # options and seeds are for one reset only
        envs.reset()
        drawn += [info["prompt"] for info in envs.reset_infos]
    assert sorted(drawn[::2]) != ["d", "d"]
    envs.seed(3)
    envs.reset()
    first = [info["prompt"] for info in envs.reset_infos]
    envs.seed(3)
    envs.reset()
    assert [info["prompt"] for info in envs.reset_infos] == first
    envs.set_options([{"prompt": "d"}, {}])
    with pytest.raises(UserError, match="one dict"):
        envs.reset()
    assert len(envs.env_method("state_dict")) == 2
    envs.close()
    with pytest.raises(UserError, match="SAME_STEP"):
        SB3VecEnv(vector(model))


def test_stable_baselines_monitor_counts_the_returns(model):
    envs = VecMonitor(SB3VecEnv(VectorTopTokens(vector(model, 2, autoreset_mode="SameStep"), 3, kl_coef=0)))
    envs.reset()
    episodes = []
    for _ in range(12):
        infos = envs.step(np.zeros(2, dtype=int))[3]
        episodes += [info for info in infos if "episode" in info]
    assert episodes
    for info in episodes:
        assert info["episode"]["r"] == pytest.approx(words([info["prompt"]], [info["completion"]])[0], abs=1e-5)
