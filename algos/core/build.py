"""Putting an algorithm together: its settings, the environments it plays in, the meter, the policy, the randomness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium.vector import AutoresetMode
from pydantic import ValidationError

from bakeoff import registry
from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.policy import Policy
from bakeoff.envs.meter import Budget, Meter
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError, UserError
from bakeoff.names import instead_of_setting
from bakeoff.seeding import derive_seed, torch_generator

SAMPLING_SETTINGS = ("temperature", "top_k", "top_p")
SAMPLING_SETTINGS_REFUSED = (
    "algorithms sample from the policy's own distribution, or probability ratios would lie; "
    "temperature, top_k and top_p are for looking at completions (bakeoff sample)"
)


def parse_config(algorithm: type[Algorithm], settings: Mapping[str, Any], source: str = "settings") -> AlgorithmConfig:
    """The algorithm's configuration from plain settings.

    Raises:
        ConfigError: every unknown key (with our name for it, or the nearest known one) and every wrong value, all at once.
    """
    known = algorithm.Config.model_fields
    try:
        return algorithm.Config.model_validate(dict(settings))
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"][:1])
            if key in SAMPLING_SETTINGS:
                problem = f'"{key}" is not a setting of training: {SAMPLING_SETTINGS_REFUSED}'
            elif item["type"] == "extra_forbidden":
                problem = f'unknown setting "{key}"{instead_of_setting(key, known)}'
            elif not key:  # two settings that do not go together
                problem = item["msg"].removeprefix("Value error, ")
            else:
                problem = f'setting "{key}": {item["msg"][:1].lower()}{item["msg"][1:]} (got {item["input"]!r})'
            if problem not in problems:
                problems.append(problem)
        raise ConfigError(source, problems) from None


def why_unavailable(algorithm: type[Algorithm]) -> str | None:
    """What its ``unavailable()`` says, or that it raises."""
    try:
        return algorithm.unavailable()
    except Exception as error:
        return f"its unavailable() raised {type(error).__name__}: {' '.join(str(error).split())}"


def build(
    algorithm: str | type[Algorithm], settings: Mapping[str, Any], task: Task, budget: Budget, seed: int
) -> Algorithm:
    """An algorithm ready for its first update.

    Args:
        algorithm: a registered name, or the class itself.
        settings: values for its ``Config``.
        task: what to optimize.
        budget: schedules follow the share that is spent; the caller of ``update`` has to stop at its end.
        seed: fixes every random draw of this run.

    Raises:
        NotFoundError: no algorithm of that name.
        ConfigError: settings it cannot take.
        UserError: it cannot be used here, and why.
    """
    name = algorithm if isinstance(algorithm, str) else algorithm.__name__
    kind = registry.algorithms.load(algorithm) if isinstance(algorithm, str) else algorithm
    if not (isinstance(kind, type) and issubclass(kind, Algorithm)):
        raise UserError(f'algorithm "{name}" is {kind!r}, not a subclass of bakeoff.algos.Algorithm')
    missing = why_unavailable(kind)
    if missing is not None:
        raise UserError(f'algorithm "{name}": {missing}')
    config = parse_config(kind, settings, f'algorithm "{name}"')
    meter = Meter()
    envs = TextGenerationVectorEnv.from_task(
        task,
        config.batch_size,
        split="train",
        meter=meter,
        budget=budget,
        seed=derive_seed(seed, "prompts"),
        autoreset_mode=AutoresetMode.DISABLED,
    )
    policy = Policy(task.language_model, meter, config, torch_generator(seed, "policy"))
    return kind(config, policy, envs, torch_generator(seed, "algorithm"))
