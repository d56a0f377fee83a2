"""Unknown names are answered with ours."""

from __future__ import annotations

import re

import pytest

from bakeoff import names, registry
from bakeoff.algos.core.build import parse_config
from bakeoff.benchmarks.spec.parts import BudgetSpec
from bakeoff.benchmarks.spec.schema import Suite
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.envs.meter import METERS, Budget
from bakeoff.envs.rewards.resolve import make_reward
from bakeoff.envs.tasks.base import make_task
from bakeoff.errors import BakeoffError, ConfigError, NotFoundError
from bakeoff.reports.figures import drawer

CALLED = 'unknown setting "{}"; it is called "{}" here'


def answer(algorithm: str, setting: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(registry.algorithms.load(algorithm), {setting: 1})
    return str(caught.value).removeprefix("settings: ")


@pytest.mark.parametrize(
    ("algorithm", "theirs", "ours"),
    [
        ("ppo", "vf_coef", "value_coef"),
        ("ppo", "clip_range", "clip"),
        ("ppo", "cliprange", "clip"),
        ("ppo", "cliprange_value", "value_clip"),
        ("ppo", "ent_coef", "entropy_coef"),
        ("ppo", "n_epochs", "epochs"),
        ("ppo", "lam", "gae_lambda"),
        ("ppo", "beta", "kl_coef"),
        ("ppo", "kl_target", "adaptive_kl_target"),
        ("ppo", "stop_kl", "target_kl"),
        ("grpo", "beta", "kl_coef"),
        ("grpo", "num_generations", "group_size"),
        ("grpo", "epsilon", "clip"),
        ("grpo", "num_iterations", "epochs"),
        ("grpo", "normalise_variance", "normalize_variance"),
        ("grpo", "length_normalisation", "length_normalization"),
        ("rloo", "rloo_k", "group_size"),
        ("best_of_n", "num_generations", "n"),
        ("rejection_sampling", "num_train_epochs", "epochs"),
        ("dpo", "pair_batch", "train_batch_size"),
        ("dpo", "updates_per_batch", "gradient_steps"),
        ("dpo", "per_device_train_batch_size", "train_batch_size"),
        ("dpo", "length_normalisation", "length_normalization"),
        ("simpo", "simpo_gamma", "target_margin"),
        ("kto", "row_batch", "train_batch_size"),
        ("dqn", "polyak", "tau"),
        ("dqn", "replay_batch", "train_batch_size"),
        ("dqn", "priority_exponent", "priority_alpha"),
        ("dqn", "priority_correction", "priority_beta"),
        ("dqn", "buffer_size", "replay_capacity"),
        ("dqn", "exploration_fraction", "epsilon_until"),
        ("q_learning", "polyak", "tau"),
        ("ilql", "updates_per_batch", "gradient_steps"),
        ("sb3_ppo", "n_epochs", "epochs"),
        ("sb3_ppo", "clip_range", "clip"),
        ("sb3_ppo", "value_coef", "vf_coef"),
        ("sb3_dqn", "train_batch_size", "minibatch_size"),
        ("sb3_dqn", "polyak", "tau"),
        ("trl_rloo", "normalise_advantages", "normalize_advantages"),
        ("trl_grpo", "num_generations", "group_size"),
        ("trl_grpo", "lr", "learning_rate"),
    ],
)
def test_a_setting_of_another_library(algorithm: str, theirs: str, ours: str) -> None:
    found = answer(algorithm, theirs)
    assert re.fullmatch(re.escape(CALLED.format(theirs, ours)) + r"( \(.+\))?", found)


@pytest.mark.parametrize(("algorithm", "name"), [("dpo", "beta"), ("online_dpo", "beta"), ("sb3_dqn", "tau")])
def test_an_own_setting_keeps_its_meaning(algorithm: str, name: str) -> None:
    assert getattr(parse_config(registry.algorithms.load(algorithm), {name: 0.5}), name) == 0.5


@pytest.mark.parametrize(
    ("theirs", "problem"),
    [
        ("max_completion_length", 'it is "max_new_tokens" of the task'),
        ("max_new_tokens", 'it is "max_new_tokens" of the task'),
        ("reward_funcs", 'it is "reward" of the task'),
        ("seed", 'it is "seeds" of the suite'),
        ("total_timesteps", 'it is "budget" of the suite (a step is a token: budget.generated_tokens)'),
        ("vf_coef", 'its name here is "value_coef", and there is no such setting for this one'),
        ("group_sise", 'did you mean "group_size"?'),
        ("nothing_like_it", ""),
    ],
)
def test_a_setting_that_is_elsewhere_or_nowhere(theirs: str, problem: str) -> None:
    assert answer("grpo", theirs) == f'unknown setting "{theirs}"' + (f"; {problem}" if problem else "")


def test_tasks_budgets_and_suites_answer_too() -> None:
    with pytest.raises(
        ConfigError, match='unknown setting "max_completion_length"; it is called "max_new_tokens" here'
    ):
        make_task("smollm-sentiment", max_completion_length=8)
    with pytest.raises(ConfigError, match=r'unknown limit "total_timesteps"; it is called "generated_tokens" here'):
        Budget.of({"total_timesteps": 8})
    suite = {"name": "s", "tasks": {"exact": {}}, "algorithms": {"ppo": {}}, "budget": {"total_episodes": 8}, "seed": 1}
    with pytest.raises(BakeoffError) as caught:
        load_suite(suite)
    assert 'unknown key "seed"; it is called "seeds" here; keys are' in str(caught.value)
    assert 'unknown key "total_episodes" in budget; it is called "reward_queries" here; keys are' in str(caught.value)


def test_british_and_old_names_are_answered_with_the_new() -> None:
    for old, new in (("normalise", "normalize"), ("penalise_length", "penalize_length")):
        with pytest.raises(NotFoundError, match=f'no reward "{old}"; it is called "{new}" here'):
            make_reward(old)
    with pytest.raises(NotFoundError, match='no suite "overoptimisation"; it is called "overoptimization" here'):
        load_suite("overoptimisation")
    with pytest.raises(NotFoundError, match='no figure kind "overoptimisation"; it is called "overoptimization" here'):
        drawer("overoptimisation")
    assert names.did_you_mean("ppo_dear", ["ppo", "ppo_high_kl"]) == '; it is called "ppo_high_kl" here'
    assert names.did_you_mean("ppo_dear", ["ppo_clear"]) == '; did you mean "ppo_clear"?'


def test_every_answer_in_the_tables_is_a_setting() -> None:
    kinds = [registry.algorithms.load(name) for name in registry.algorithms.names()]
    settings = {name for kind in kinds for name in kind.Config.model_fields}
    for table in names.ALGORITHMS:
        for row in table:
            assert row.ours in settings, row
    assert {row.ours for row in names.SUITES} <= set(Suite.model_fields)
    assert {row.ours for row in names.LIMITS} <= set(METERS) == set(BudgetSpec.model_fields)
