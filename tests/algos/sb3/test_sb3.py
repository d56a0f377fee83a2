"""Stable-Baselines3's agents as contestants: distributions and prices by hand, what is counted, what is saved."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3
import torch
from safetensors.torch import load_file

from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.build import build
from bakeoff.algos.sb3.agent import action_logprobs
from bakeoff.algos.sb3.policy import token_vectors
from bakeoff.benchmarks.cells.cell_runner import Stopped, run_cell
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.evaluation.sample_cell import sample_cell
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.checkpoint import load_state, save_state
from bakeoff.envs.meter import Budget
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.top_tokens import VectorTopTokens
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError, RunFolderError

BUDGET = Budget(reward_queries=512)
AGENTS = {"sb3_ppo": stable_baselines3.PPO, "sb3_a2c": stable_baselines3.A2C, "sb3_dqn": stable_baselines3.DQN}
LEARNING = {
    "sb3_ppo": {"start": "reference"},
    "sb3_a2c": {"n_steps": 3},
    "sb3_dqn": {"learning_starts": 64, "gradient_steps": 3},
}
"""Settings under which the first updates train, and end while completions are under way."""


def make(name: str, task: Task, seed: int = 0, **settings: object) -> Algorithm:
    return build(name, {"batch_size": 16, **settings}, task, BUDGET, seed)


def top_k_of_the_reference(task: Task, k: int) -> torch.Tensor:
    """The reference restricted to its k likeliest tokens at each node and renormalized, from the enumeration's own tables."""
    tree = task.enumeration.tree
    tables = []
    for table in tree.conditionals(task.enumeration.reference_logprobs_QN):
        lowest = table.topk(k, -1).values[..., -1:]
        tables.append(table.masked_fill(table < lowest, -torch.inf).log_softmax(-1))
    return tree.from_conditionals(tables)


@pytest.mark.parametrize("name", AGENTS)
def test_the_agents_are_stable_baselines_own(name: str, exact: Task) -> None:
    algorithm = make(name, exact)
    assert type(algorithm.agent) is AGENTS[name]
    assert type(algorithm.agent.policy).__module__.startswith("stable_baselines3.")


@pytest.mark.parametrize("k", [3, 8])
@pytest.mark.parametrize("name", ["sb3_ppo", "sb3_a2c"])
def test_it_can_start_from_the_reference_restricted_to_k_tokens(name: str, k: int, exact: Task) -> None:
    contestant = make(name, exact, k=k, start="reference").contestant()
    ours, expected = contestant.sequence_logprobs(exact.enumeration), top_k_of_the_reference(exact, k)
    torch.testing.assert_close(ours.exp(), expected.exp(), atol=1e-6, rtol=1e-4)
    figures = exact.enumeration.objective(ours)
    # KL to the reference is then the expected -log of the mass that the k tokens hold, summed over the tokens.
    kl = torch.where(expected > -torch.inf, expected.exp() * (expected - exact.enumeration.reference_logprobs_QN), 0.0)
    assert figures["exact_kl"] == pytest.approx(float(kl.sum(1).mean()), abs=1e-5)
    assert (figures["exact_kl"] > 0.1) is (k == 3)


@pytest.mark.parametrize("name", AGENTS)
def test_samples_and_kl_agree_with_the_enumeration(name: str, exact: Task) -> None:
    algorithm = make(name, exact, k=4, **LEARNING[name])
    for _ in range(4):
        algorithm.update()
    contestant = algorithm.contestant()
    logprobs_QN = contestant.sequence_logprobs(exact.enumeration)
    torch.testing.assert_close(logprobs_QN.exp().sum(1), torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)
    envs = TextGenerationVectorEnv.from_task(exact, 400, split="evaluation", seed=0)
    envs.reset(options={"prompt_indices": np.arange(400) % 4})
    completions = contestant.generate(envs, torch.Generator().manual_seed(0))
    envs.play(completions)  # which refuses what no steps could have made
    leaves_B = exact.enumeration.leaf_index(completions)
    expected_B = logprobs_QN[completions.prompts.indices_B, leaves_B]
    torch.testing.assert_close(completions.logprobs_BT.sum(1).double(), expected_B, atol=2e-4, rtol=0)

    statistics = contestant.statistics(completions)
    kl_B = statistics["kl"].double()
    exact_kl = exact.enumeration.objective(logprobs_QN)["exact_kl"]
    assert float(kl_B.mean()) == pytest.approx(exact_kl, abs=4 * float(kl_B.std()) / 20 + 1e-4)
    reference_B = exact.enumeration.reference_logprobs_QN[completions.prompts.indices_B, leaves_B]
    torch.testing.assert_close(
        statistics["reference_nll"].double(), -reference_B / completions.lengths_B, atol=1e-4, rtol=0
    )
    if name == "sb3_dqn":  # greedy: one completion a prompt, whose KL is its own surprise
        assert len(leaves_B.unique()) <= 4
        assert statistics["entropy"].tolist() == [0.0] * 400
        torch.testing.assert_close(kl_B, -reference_B, atol=1e-4, rtol=0)
    else:
        assert bool((statistics["entropy"] > 0).all())
    assert bool(((statistics["reference_mass"] > 0.4) & (statistics["reference_mass"] < 1)).all())


def test_the_kl_that_is_charged_is_the_agents_own(exact: Task) -> None:
    """An agent that is the reference pays nothing; one charged as if certain pays for all of its surprise."""
    assert make("sb3_ppo", exact, start="reference").update()["kl"] == pytest.approx(0, abs=1e-4)
    assert make("sb3_dqn", exact, train_freq=10).update()["kl"] > 3
    uniform = make("sb3_ppo", exact)
    assert uniform.update()["kl"] == pytest.approx(
        exact.enumeration.objective(make("sb3_ppo", exact).contestant().sequence_logprobs(exact.enumeration))[
            "exact_kl"
        ],
        abs=1.5,
    )


def test_what_a_greedy_agent_is_paid_is_the_objective(exact: Task) -> None:
    """The environment's return, undiscounted, of a DQN's best actions: reward - beta KL, exactly."""
    agent = make("sb3_dqn", exact).agent
    envs = TextGenerationVectorEnv.from_task(exact, 4, split="evaluation", seed=0)
    choices = VectorTopTokens(envs, 8)
    states, _ = choices.reset(options={"prompt_indices": [0, 1, 2, 3]})
    returns_B, ended_B = np.zeros(4), np.zeros(4, dtype=bool)
    while not ended_B.all():
        actions = action_logprobs(agent, torch.from_numpy(states)).argmax(1).numpy()
        states, rewards, terminated, truncated, _ = choices.step(actions)
        returns_B += np.where(ended_B, 0, rewards)
        now_B = terminated | truncated
        ended_B |= now_B
        if now_B.any():
            states, _ = choices.reset(options={"reset_mask": now_B})
    contestant = make("sb3_dqn", exact).contestant()
    figures = exact.enumeration.objective(contestant.sequence_logprobs(exact.enumeration))
    assert returns_B.mean() == pytest.approx(figures["exact_objective"], abs=1e-4)


def test_trained_tokens_are_states_that_pass_with_gradients(exact: Task) -> None:
    """By hand: 16 completions x 5 tokens = 80 states; PPO passes them `epochs` times, A2C once, a DQN its minibatches."""
    for name, settings, expected in [
        ("sb3_ppo", {"epochs": 3}, 3 * 80),
        ("sb3_a2c", {}, 80),
        ("sb3_dqn", {"learning_starts": 1, "gradient_steps": 7, "minibatch_size": 9}, 63),
    ]:
        algorithm = make(name, exact, **settings)
        algorithm.update()
        assert algorithm.envs.meter.trained_tokens == expected
        assert algorithm.envs.meter.generated_tokens == (16 if name == "sb3_dqn" else 80)


@pytest.mark.parametrize("name", AGENTS)
def test_resumes_in_the_middle_of_completions(name: str, exact: Task, tmp_path: Path) -> None:
    first = make(name, exact, **LEARNING[name])
    for _ in range(6):
        first.update()
    save_state(first.state_dict(), tmp_path)
    totals = first.envs.meter.snapshot()
    expected = [dict(first.update()) for _ in range(5)]
    second = make(name, exact, seed=9, **LEARNING[name])
    second.load_state_dict(load_state(tmp_path))
    second.envs.meter.restore(totals)
    assert [dict(second.update()) for _ in range(5)] == expected
    assert second.envs.meter.trained_tokens == first.envs.meter.trained_tokens > totals["trained_tokens"]
    for ours, theirs in zip(second.trained_parameters(), first.trained_parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_nobody_elses_random_numbers_are_drawn(exact: Task) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    algorithm = make("sb3_dqn", exact, **LEARNING["sb3_dqn"])
    for _ in range(5):
        algorithm.update()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("name", ["sb3_ppo", "sb3_a2c"])
def test_the_tilt_belongs_to_tokens_whatever_their_rank(name: str, exact: Task) -> None:
    """With f(state) set to a constant vector c, every logit is log reference + <c, vector of the token>, in every state."""
    algorithm = make(name, exact, k=5, start="reference")
    model = exact.language_model
    constant = torch.linspace(-1, 1, model.width)
    with torch.no_grad():
        algorithm.agent.policy.action_net.linear.bias.copy_(constant)
    tilt_V = token_vectors(model) @ constant
    torch.testing.assert_close(token_vectors(model).mean(0), torch.zeros(model.width), atol=1e-6, rtol=0)
    states, _ = algorithm.choices.reset()
    expected = torch.from_numpy(algorithm.choices.logprobs_BK) + tilt_V[torch.from_numpy(algorithm.choices.tokens_BK)]
    found = action_logprobs(algorithm.agent, torch.from_numpy(states))
    torch.testing.assert_close(found, expected.log_softmax(1))


@pytest.mark.parametrize("name", ["sb3_ppo", "sb3_a2c"])
def test_every_weight_of_the_tilt_learns_but_the_tokens_vectors(name: str, exact: Task) -> None:
    algorithm = make(name, exact, k=5, start="reference")
    fixed = algorithm.agent.policy.action_net.token_vectors_VD.clone()
    before = [p.detach().clone() for p in algorithm.trained_parameters()]
    for _ in range(3):
        algorithm.update()
    assert all(not torch.equal(a, b) for a, b in zip(algorithm.trained_parameters(), before, strict=True))
    assert torch.equal(algorithm.agent.policy.action_net.token_vectors_VD, fixed)


def test_schedules_follow_the_budget(exact: Task) -> None:
    algorithm = make("sb3_ppo", exact, learning_rate=1e-2)
    rates, shares = [], []
    for _ in range(3):
        shares.append(algorithm.envs.progress)
        rates.append(algorithm.update()["learning_rate"])
    assert rates == pytest.approx([1e-2 * (1 - share) for share in shares])
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert make("sb3_ppo", exact, learning_rate=1e-2, learning_rate_schedule="constant").rate(0.0) == 1e-2
    dqn = make("sb3_dqn", exact, exploration_fraction=0.5)
    assert dqn.epsilon(0.0) == 1.0
    dqn.envs.meter.add_queries(128)  # a quarter of the budget: half of the way from 1 to .05
    dqn.update()
    assert dqn.epsilon(0.0) == pytest.approx(0.525)
    dqn.envs.meter.add_queries(256)
    dqn.update()
    assert dqn.epsilon(0.0) == pytest.approx(0.05)


def test_metrics_are_of_whole_completions(exact: Task) -> None:
    algorithm = make("sb3_a2c", exact, n_steps=1, kl_coef=0.5)
    rows = [algorithm.update() for _ in range(10)]
    ended = [row for row in rows if "reward" in row]
    assert ended
    for row in ended:
        assert 1 <= row["length"] <= 5
        assert row["objective"] == pytest.approx(row["reward"] - 0.5 * row["kl"])


@pytest.mark.parametrize("name", AGENTS)
def test_saves_weights_and_a_description(name: str, exact: Task, tmp_path: Path) -> None:
    algorithm = make(name, exact, k=5)
    algorithm.save(tmp_path)
    description = json.loads((tmp_path / "agent.json").read_text())
    assert description["agent"] == AGENTS[name].__name__
    assert (description["k"], description["observation"]) == (5, exact.language_model.width)
    weights = load_file(tmp_path / "agent.safetensors")
    assert sum(w.numel() for w in weights.values()) == sum(p.numel() for p in algorithm.trained_parameters())


def test_stopping_after_every_update_changes_no_number(tmp_path: Path) -> None:
    cell = Cell(
        task="exact", task_name="exact", task_settings={}, label="a2c", algorithm="sb3_a2c",
        settings={"batch_size": 8, "n_steps": 3}, seed=3, budget={"reward_queries": 24},
        evaluate={"every": {"reward_queries": 10}, "completions": 16, "samples": 2},
    )  # fmt: skip
    cache = TaskCache()
    for folder, stop in ((tmp_path / "whole", False), (tmp_path / "parts", True)):
        over = False
        while not over:
            try:
                run_cell(cell, folder, cache, should_stop=lambda stop=stop: stop)
                over = True
            except Stopped:
                pass
    rows = [
        [{**row, "seconds": None} for row in atomic_files.read_rows(folder / "metrics.jsonl")]
        for folder in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert rows[0] == rows[1]
    last = rows[0][-1]
    assert last["phase"] == "eval"
    assert {"normalized_score", "kl", "reference_mass", "entropy"} <= set(last["metrics"])
    assert atomic_files.read_json(tmp_path / "whole" / "config.json")["notes"][0].startswith("saves no language model")
    with pytest.raises(RunFolderError, match="not a language model"):
        sample_cell(tmp_path / "whole", "a b", 1)


def test_more_tokens_than_there_are_means_all_of_them(exact: Task) -> None:
    assert make("sb3_ppo", exact, k=1000).choices.k == 8


@pytest.mark.parametrize("settings", [{"trainable": "lora"}, {"micro_batch_size": 8}, {"gradient_checkpointing": True}])
def test_settings_of_a_language_model_that_learns_are_refused(settings: dict[str, object], exact: Task) -> None:
    with pytest.raises(ConfigError, match=f'"{next(iter(settings))}" is about training the language model'):
        make("sb3_ppo", exact, **settings)


@pytest.mark.slow
def test_the_example_learns(exact: Task) -> None:
    """The README's example, as it stands there."""
    source = (Path(__file__).parents[3] / "examples" / "sb3_ppo.py").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(compile(source, "sb3_ppo.py", "exec"), names)
    assert names["after"] > names["before"] + 0.5  # type: ignore[operator]
