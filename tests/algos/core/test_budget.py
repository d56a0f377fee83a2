"""Reward queries are never exceeded: the last batch is cut to whole groups, or the cell is over."""

from typing import Any

import pytest
import torch

from bakeoff import registry
from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build, why_unavailable
from bakeoff.envs.meter import Budget, Meter
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import UserError

GROUPS = {"grpo": "group_size", "rloo": "group_size", "online_dpo": "group_size", "q_learning": "group_size",
          "trl_grpo": "group_size", "trl_rloo": "group_size", "rejection_sampling": "n", "best_of_n": "n"}  # fmt: skip
ALONE = ("ppo", "reinforce", "dqn", "kto", "ilql", "mc_returns")
PAIRS = ("dpo", "simpo", "trl_dpo")
FIXED = ("trl_grpo", "trl_rloo", "sb3_ppo", "sb3_a2c", "sb3_dqn")
LIGHT: dict[str, dict[str, Any]] = {
    "ppo": {"epochs": 1}, "grpo": {"epochs": 1}, "rloo": {"epochs": 1}, "rejection_sampling": {"epochs": 1},
    "online_dpo": {"epochs": 1}, "dqn": {"gradient_steps": 1}, "ilql": {"gradient_steps": 1},
    "mc_returns": {"gradient_steps": 1}, "sb3_ppo": {"epochs": 1}, "sb3_dqn": {"target_update_interval": 1_024},
}  # fmt: skip
"""Little training, where that is not what is tested."""


def spend(name: str, task: Task, limit: int, **settings: Any) -> Algorithm:
    """Play to the end of the budget, each update with finite figures."""
    kind: type[Algorithm] = registry.algorithms.load(name)
    missing = why_unavailable(kind)
    if missing:
        pytest.skip(missing)
    algorithm = build(kind, {**LIGHT.get(name, {}), **settings}, task, Budget(reward_queries=limit), seed=0)
    while not (algorithm.finished or algorithm.out_of_budget):
        metrics = algorithm.update()
        assert all(value - value == 0 for value in metrics.values()), metrics
    return algorithm


@pytest.mark.parametrize("name", [*GROUPS, *ALONE, *PAIRS, *FIXED[2:]])
def test_a_large_last_batch_buys_nothing(name: str, exact: Task) -> None:
    algorithm = spend(name, exact, 1_100, batch_size=1_024)
    spent = algorithm.envs.meter.reward_queries
    assert spent <= 1_100
    if name in FIXED or name == "best_of_n":  # one whole batch; best of n has finished after it
        assert spent >= 1_024 or name.startswith("sb3")
    elif name in GROUPS:
        size = getattr(algorithm.config, GROUPS[name])
        assert spent == 1_100 // size * size
    else:
        assert spent == 1_100


@pytest.mark.parametrize(("size", "spent"), [(8, 16), (4, 20), (2, 20)])
@pytest.mark.parametrize("name", [name for name in GROUPS if name not in FIXED and name != "best_of_n"])
def test_groups_stay_whole(name: str, size: int, spent: int, exact: Task) -> None:
    algorithm = spend(name, exact, 20, batch_size=16, **{GROUPS[name]: size})
    assert algorithm.envs.meter.reward_queries == spent


@pytest.mark.parametrize("name", [*ALONE, *PAIRS])
def test_completions_and_pairs(name: str, exact: Task) -> None:
    assert spend(name, exact, 20, batch_size=16).envs.meter.reward_queries == 20
    assert spend(name, exact, 17, batch_size=16).envs.meter.reward_queries == (16 if name in PAIRS else 17)


@pytest.mark.parametrize("name", FIXED)
def test_a_library_s_batch_is_whole(name: str, exact: Task) -> None:
    for limit in (20, 47):
        assert spend(name, exact, limit, batch_size=16).envs.meter.reward_queries <= limit


def test_what_asks_no_reward_is_not_limited(exact: Task) -> None:
    rows = [{"prompt": "a b", "completion": "c", "label": True}, {"prompt": "a b", "completion": "d", "label": False}]
    algorithm = spend("kto", exact, 1, data=rows, epochs=2, train_batch_size=2, gradient_steps=1)
    assert algorithm.finished
    assert algorithm.envs.meter.trained_tokens > 0
    assert algorithm.envs.meter.reward_queries == 0


def test_a_cut_batch_is_played_and_the_next_is_whole(exact: Task) -> None:
    meter = Meter()
    envs = TextGenerationVectorEnv.from_task(exact, 8, meter=meter, budget=Budget(reward_queries=14), seed=0)
    generator = torch.Generator().manual_seed(0)

    def play() -> int:
        played = envs.play(exact.language_model.sample(envs.prompt_batch, envs.max_new_tokens, generator))
        return len(played.rewards_B)

    envs.begin_batch(4)
    assert play() == 8
    prompts = envs.begin_batch(2)
    assert prompts.indices_B.reshape(-1, 2).unique(dim=1).shape[1] == 1
    assert len(prompts) == len(envs.prompt_batch) == 6
    state = envs.state_dict()
    twin = TextGenerationVectorEnv.from_task(exact, 8, meter=Meter(), budget=envs.budget, seed=1)
    twin.load_state_dict(state)
    assert twin.prompt_batch.indices_B.tolist() == prompts.indices_B.tolist()
    assert play() == 6
    assert meter.reward_queries == 14
    with pytest.raises(UserError, match="the budget has 0 reward queries left, which do not pay for 2"):
        envs.begin_batch(2)
    envs.reset()
    assert play() == 8, "what is reset as a whole is not limited"


def test_a_judge_of_its_own_is_not_limited(exact: Task) -> None:
    envs = TextGenerationVectorEnv.from_task(exact, 8, budget=Budget(reward_queries=4), seed=0)
    judge = envs.with_reward(lambda completions, **columns: [0.0] * len(completions), "judge", 0)
    assert envs.affordable() == 4
    assert judge.affordable() == 8
    assert len(judge.begin_batch(2)) == 8
