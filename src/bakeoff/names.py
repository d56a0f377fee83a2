"""What other libraries call our settings, and what our own names were: answers to a name that is not known here.

A table is used only where the name typed is not a setting and our name for the same thing is one; the nearest spelling is
the answer only where the tables are silent. ``docs/names.md`` shows the tables.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Named:
    """One setting under another library's name."""

    theirs: str
    """The other library's name."""
    ours: str
    """Our name for the same thing."""
    libraries: str
    """The libraries that use the name."""
    note: str = ""
    """How ours differs, if it does."""
    place: Literal["algorithm", "task", "suite"] = "algorithm"
    """The part of a suite that has the setting."""


def _table(*rows: tuple[str, ...]) -> tuple[Named, ...]:
    return tuple(Named(*row) for row in rows)  # type: ignore[arg-type]


EVERY_ALGORITHM = _table(
    ("beta", "kl_coef", "TRL"),
    ("init_kl_coef", "kl_coef", "TRL"),
    ("kl_penalty_coef", "kl_coef", "TRL"),
    ("lr", "learning_rate", "torch"),
    ("lr_scheduler_type", "learning_rate_schedule", "TRL"),
    ("anneal_lr", "learning_rate_schedule", "CleanRL"),
    ("warmup_ratio", "warmup_steps", "TRL", "a number of steps, not a share"),
    ("max_norm", "max_grad_norm", "torch"),
    ("gradient_accumulation_steps", "micro_batch_size", "TRL", "the size of a part, not how many there are"),
    ("use_peft", "trainable", "TRL", "trainable: lora"),
    ("lora_r", "lora_rank", "TRL"),
    ("target_modules", "lora_targets", "PEFT"),
    ("lora_target_modules", "lora_targets", "TRL"),
)
POLICY_GRADIENTS = _table(
    ("num_generations", "group_size", "TRL"),
    ("rloo_k", "group_size", "TRL"),
    ("clip_range", "clip", "SB3"),
    ("clip_coef", "clip", "CleanRL"),
    ("cliprange", "clip", "TRL"),
    ("epsilon", "clip", "TRL"),
    ("clip_range_vf", "value_clip", "SB3"),
    ("clip_vloss", "value_clip", "CleanRL"),
    ("cliprange_value", "value_clip", "TRL"),
    ("vf_coef", "value_coef", "SB3, CleanRL, TRL"),
    ("ent_coef", "entropy_coef", "SB3, CleanRL"),
    ("n_epochs", "epochs", "SB3"),
    ("update_epochs", "epochs", "CleanRL"),
    ("num_ppo_epochs", "epochs", "TRL"),
    ("num_iterations", "epochs", "TRL", "passes over a batch of completions"),
    ("num_train_epochs", "epochs", "TRL"),
    ("lam", "gae_lambda", "TRL"),
    ("norm_adv", "whiten_advantages", "CleanRL"),
    ("normalize_advantage", "whiten_advantages", "SB3"),
    ("scale_rewards", "normalize_variance", "TRL"),
    ("num_minibatches", "minibatches", "CleanRL"),
    ("num_mini_batches", "minibatches", "TRL"),
    ("mini_batch_size", "minibatches", "TRL", "how many, not how large"),
    ("minibatch_size", "minibatches", "CleanRL", "how many, not how large"),
    ("kl_target", "adaptive_kl_target", "bakeoff before 0.1"),
    ("target", "adaptive_kl_target", "TRL"),
    ("horizon", "kl_horizon", "TRL"),
    ("stop_kl", "target_kl", "bakeoff before 0.1"),
    ("early_stop_kl", "target_kl", "TRL"),
)
PREFERENCES = _table(
    ("rpo_alpha", "supervised_coef", "TRL"),
    ("cpo_alpha", "supervised_coef", "TRL"),
    ("simpo_gamma", "target_margin", "TRL"),
    ("max_length", "max_completion_tokens", "TRL", "of the completion alone"),
    ("pair_batch", "train_batch_size", "bakeoff before 0.1"),
    ("row_batch", "train_batch_size", "bakeoff before 0.1"),
    ("updates_per_batch", "gradient_steps", "bakeoff before 0.1"),
    ("train_batch_size", "pairs_per_step", "TRL"),
    ("buffer_size", "capacity", "SB3, CleanRL"),
)
VALUES = _table(
    ("replay_batch", "train_batch_size", "bakeoff before 0.1"),
    ("minibatch_size", "train_batch_size", "CleanRL"),
    ("buffer_size", "replay_capacity", "SB3, CleanRL"),
    ("train_freq", "gradient_steps", "SB3", "gradient steps per batch of completions"),
    ("train_frequency", "gradient_steps", "CleanRL", "gradient steps per batch of completions"),
    ("polyak", "tau", "Spinning Up"),
    ("polyak_tau", "tau", "SB3"),
    ("target_network_frequency", "tau", "CleanRL", "a share after each step, not every so many steps"),
    ("target_update_interval", "tau", "SB3", "a share after each step, not every so many steps"),
    ("exploration_initial_eps", "epsilon_start", "SB3"),
    ("exploration_final_eps", "epsilon_end", "SB3"),
    ("exploration_fraction", "epsilon_until", "SB3, CleanRL"),
    ("start_e", "epsilon_start", "CleanRL"),
    ("end_e", "epsilon_end", "CleanRL"),
    ("priority_exponent", "priority_alpha", "bakeoff before 0.1"),
    ("priority_correction", "priority_beta", "bakeoff before 0.1"),
)
SAMPLING = _table(
    ("num_generations", "n", "TRL"),
    ("n_candidates", "n", "TRL"),
)
BATCHES = _table(
    ("per_device_train_batch_size", "train_batch_size", "TRL", "over all devices"),
    ("per_device_train_batch_size", "pairs_per_step", "TRL", "over all devices"),
    ("per_device_train_batch_size", "batch_size", "TRL", "completions per update, over all devices"),
    ("train_batch_size", "batch_size", "TRL", "completions per update"),
    ("generation_batch_size", "batch_size", "TRL"),
    ("rollout_batch_size", "batch_size", "TRL"),
    ("num_envs", "batch_size", "CleanRL"),
    ("n_envs", "batch_size", "SB3"),
)
SB3_AGENTS = _table(
    ("entropy_coef", "ent_coef", "TRL"),
    ("value_coef", "vf_coef", "bakeoff's ppo"),
    ("whiten_advantages", "normalize_advantage", "bakeoff's ppo"),
    ("norm_adv", "normalize_advantage", "CleanRL"),
    ("train_batch_size", "minibatch_size", "bakeoff's dqn"),
    ("replay_capacity", "buffer_size", "bakeoff's dqn"),
    ("start_e", "exploration_initial_eps", "CleanRL"),
    ("end_e", "exploration_final_eps", "CleanRL"),
    ("train_frequency", "train_freq", "CleanRL"),
    ("target_network_frequency", "target_update_interval", "CleanRL"),
)
TASKS = _table(
    ("max_completion_length", "max_new_tokens", "TRL", "", "task"),
    ("response_length", "max_new_tokens", "TRL", "", "task"),
    ("max_tokens", "max_new_tokens", "vLLM", "", "task"),
    ("max_new_tokens", "max_new_tokens", "transformers", "", "task"),
    ("model_name_or_path", "model", "TRL", "", "task"),
    ("model_name", "model", "TRL", "", "task"),
    ("reward_funcs", "reward", "TRL", "", "task"),
    ("reward_model_path", "reward", "TRL", "", "task"),
    ("train_dataset", "prompts", "TRL", "", "task"),
    ("dataset_name", "prompts", "TRL", "a file", "task"),
    ("eval_dataset", "evaluation_prompts", "TRL", "", "task"),
    ("torch_dtype", "dtype", "transformers", "", "task"),
    ("device", "device", "SB3", "", "task"),
)
SUITES = _table(
    ("seed", "seeds", "SB3, CleanRL, TRL", "", "suite"),
    ("total_timesteps", "budget", "SB3, CleanRL", "a step is a token: budget.generated_tokens", "suite"),
    ("total_episodes", "budget", "TRL", "budget.reward_queries", "suite"),
    ("max_steps", "budget", "TRL", "what is spent, not updates", "suite"),
    ("eval_steps", "evaluate", "TRL", "evaluate.every", "suite"),
    ("eval_freq", "evaluate", "SB3", "evaluate.every", "suite"),
    ("save_steps", "checkpoint_every", "TRL", "in seconds", "suite"),
    ("report_to", "trackers", "TRL", "", "suite"),
    ("tensorboard_log", "trackers", "SB3", "trackers: [tensorboard]", "suite"),
    ("num_processes", "accelerate", "Accelerate", "accelerate.processes", "suite"),
)
LIMITS = _table(
    ("total_timesteps", "generated_tokens", "SB3, CleanRL", "a step is a token", "suite"),
    ("total_episodes", "reward_queries", "TRL", "", "suite"),
    ("timesteps", "generated_tokens", "SB3", "a step is a token", "suite"),
)
REWARD_MODELS = _table(
    ("per_device_train_batch_size", "batch_size", "TRL"),
    ("num_train_epochs", "epochs", "TRL"),
    ("early_stopping_patience", "patience", "TRL"),
    ("lora_r", "lora_rank", "TRL"),
    ("use_peft", "trainable", "TRL", "trainable: lora"),
    ("num_labels", "members", "TRL", "models in an ensemble"),
)
ALGORITHMS = (EVERY_ALGORITHM, PREFERENCES, VALUES, SAMPLING, POLICY_GRADIENTS, SB3_AGENTS, BATCHES)
"""The tables for an algorithm's settings, in the order in which they are searched."""

PAGES: Mapping[str, tuple[Named, ...]] = {
    "Every algorithm": EVERY_ALGORITHM,
    "Batches": BATCHES,
    "Policy gradients: `ppo`, `grpo`, `rloo`, `reinforce`, `online_dpo`": POLICY_GRADIENTS,
    "Preferences: `dpo`, `simpo`, `online_dpo`, `kto`": PREFERENCES,
    "Values: `q_learning`, `dqn`, `ilql`, `mc_returns`": VALUES,
    "Sampling: `best_of_n`, `rejection_sampling`": SAMPLING,
    "Stable-Baselines3's agents: `sb3_ppo`, `sb3_a2c`, `sb3_dqn`": SB3_AGENTS,
    "Tasks": TASKS,
    "Suites": SUITES,
    "Budgets": LIMITS,
    "Reward models: `bakeoff train-reward`": REWARD_MODELS,
}
"""Heading to table, in the order of the docs page."""

RENAMED: Mapping[str, str] = {
    "ppo_free": "ppo_no_kl",
    "ppo_dear": "ppo_high_kl",
    "a2c": "sb3_a2c",
    "raft": "rejection_sampling",
    "bon": "best_of_n",
}
"""Registered names and labels under an old name or another library's."""

_BRITISH = re.compile(r"(normal|penal|optim|regular|initial|token|general|summar|real)is(?=e|ing|ation)")
_SPELLINGS = {
    "behaviour": "behavior",
    "centre": "center",
    "colour": "color",
    "favour": "favor",
    "judgement": "judgment",
}


def american(name: str) -> str:
    """A name in the one spelling that identifiers have here."""
    name = _BRITISH.sub(r"\1iz", name)
    for british, ours in _SPELLINGS.items():
        name = name.replace(british, ours)
    return name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``'; did you mean "ppo"?'`` when a known name is close, else an empty string; an old spelling or name gets the new."""
    known = list(known)
    for ours in (RENAMED.get(name), american(name)):
        if ours is not None and ours != name and ours in known:
            return f'; it is called "{ours}" here'
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else ""


def instead_of(name: str, known: Collection[str], *tables: tuple[Named, ...]) -> str:
    """The end of a message about an unknown name: our name for it from the tables, else the nearest spelling.

    Args:
        name: the name that is not known.
        known: the names that are.
        tables: the first row of these that has the name, and our name for it among the known ones, answers.
    """
    rows = [row for table in tables for row in table if row.theirs in (name, american(name)) and row.ours != name]
    for row in rows:
        if row.ours in known:
            return f'; it is called "{row.ours}" here' + (f" ({row.note})" if row.note else "")
    if american(name) != name and american(name) in known:
        return did_you_mean(name, known)
    if rows:
        return f'; its name here is "{rows[0].ours}", and there is no such setting for this one'
    return did_you_mean(name, known)


def instead_of_setting(name: str, known: Collection[str]) -> str:
    """As :func:`instead_of`, for a setting of an algorithm; a setting that the task or the suite has names its place."""
    for row in (*TASKS, *SUITES):
        if row.theirs == name:
            note = f" ({row.note})" if row.note else ""
            return f'; it is "{row.ours}" of the {row.place}{note}'
    return instead_of(name, known, *ALGORITHMS)
