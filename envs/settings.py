"""Calling a registered factory with settings from a file: every bad key named at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bakeoff.errors import ConfigError, did_you_mean


def settings_problems(factory: Callable[..., Any], settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the names of some settings: unknown ones (with the nearest) and missing ones."""
    parameters = inspect.signature(factory).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in parameters if p.name in known and p.default is p.empty]
    problems = [
        f'unknown setting "{name}"{did_you_mean(name, known)} (known: {", ".join(known) or "none"})'
        for name in settings
        if name not in known
    ]
    return problems + [f'missing setting "{name}"' for name in required if name not in settings]


def call_with_settings(factory: Callable[..., Any], source: str, settings: Mapping[str, Any]) -> Any:
    """``factory(**settings)``, or a :class:`ConfigError` that lists every unknown or missing setting."""
    problems = settings_problems(factory, settings)
    if problems:
        raise ConfigError(source, problems)
    return factory(**settings)
