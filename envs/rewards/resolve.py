"""Rewards by name, with settings, or as a path to a function.

A reward is any callable ``f(prompts, completions, **columns) -> list[float]``, TRL's signature (see
:class:`bakeoff.envs.rewards.call.Reward`). Factories of the built-in ones are in this package (``text``, ``vader``,
``profanity``, ``classifier``, ``preference_model``, ``composed``); a plugin registers its own factory in the
entry-point group ``bakeoff.rewards``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bakeoff import registry
from bakeoff.envs.factory_settings import call_with_settings
from bakeoff.envs.rewards.call import AnyReward, Reward, reward_name, score
from bakeoff.envs.rewards.text import contains, length, regex
from bakeoff.envs.rewards.vader import vader
from bakeoff.errors import UserError

__all__ = ["AnyReward", "Reward", "contains", "length", "make_reward", "regex", "reward_name", "score", "vader"]


def make_reward(spec: str | Mapping[str, Any] | AnyReward) -> tuple[str, AnyReward]:
    """A reward and its name from what a suite or a caller gives.

    Args:
        spec: a registered name (``"vader"``), a mapping of a name and the factory's settings (``{"name": "length",
            "unit": "words"}``), a function of the user's as ``"package.module:function"`` or
            ``"path/to/file.py:function"``, or a callable, which is taken as it is.

    Raises:
        NotFoundError: no reward of that name.
        UserError: a setting that the factory does not take, or a function that cannot be imported.
    """
    if callable(spec):
        return reward_name(spec), spec
    settings: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        settings = dict(spec)
        name = settings.pop("name", None)
    else:
        name = spec
    if not isinstance(name, str) or not name:
        raise UserError(f'reward {spec!r} has no name; write "vader" or {{name: vader, ...}}')
    if ":" in name:
        if settings:
            raise UserError(f'reward "{name}" is a function and takes no settings; leave out {", ".join(settings)}')
        return name.rpartition(":")[2], _import_function(name)
    reward: AnyReward = call_with_settings(registry.rewards.load(name), f'reward "{name}"', settings)
    return name, reward


def _import_function(path: str) -> AnyReward:
    where, _, attribute = path.rpartition(":")
    try:
        module = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except (Exception, SystemExit) as error:  # the user's module may raise anything at import
        raise UserError(f'reward "{path}": {where} cannot be imported: {type(error).__name__}: {error}') from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f'reward "{path}": {where} has no function "{attribute}"')
    found: AnyReward = function
    return found


def _load_file(path: Path) -> Any:
    name = f"bakeoff_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in the file look their module up
    spec.loader.exec_module(module)
    return module
