"""Calling a registered factory with settings from a file: every bad key named at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from bakeoff.errors import ConfigError
from bakeoff.names import TASKS, instead_of


def settings_problems(factory: Callable[..., Any], settings: Mapping[str, Any]) -> list[str]:
    """Problems with the names of settings: unknown ones (with the nearest known one) and missing ones."""
    if not callable(factory):
        return [f"{factory!r} is no factory: what is registered has to be a function of its settings"]
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in parameters if p.name in known and p.default is p.empty]
    problems = [
        f'unknown setting "{name}"{instead_of(name, known, TASKS)} (known: {", ".join(known) or "none"})'
        for name in settings
        if name not in known
    ]
    return problems + [f'missing setting "{name}"' for name in required if name not in settings]


def value_problems(factory: Callable[..., Any], settings: Mapping[str, Any]) -> list[str]:
    """Settings from a file whose kind differs from the factory's plain annotations (numbers, text, truth values)."""
    try:
        hints = get_type_hints(factory)
    except Exception:  # annotations that cannot be evaluated say nothing
        return []
    problems = []
    for name, value in settings.items():
        kinds = next((kinds for plain, kinds in _PLAIN.items() if plain == hints.get(name)), None)
        if kinds is None or (value is None and kinds[1]):
            continue
        allowed, _, words = kinds
        fits = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            problems.append(f'setting "{name}": expected {words}, got {value!r:.60}')
    return problems


_PLAIN: dict[Any, tuple[tuple[type, ...], bool, str]] = {
    annotation: (kinds, optional, words)
    for plain, kinds, words in (
        (float, (int, float), "a number"),
        (int, (int,), "a whole number"),
        (bool, (bool,), "true or false"),
        (str, (str,), "text"),
    )
    for annotation, optional in ((plain, False), (plain | None, True))
}
"""Annotation to the types that a value may have, whether it may be null, and how to say it."""


def call_with_settings(factory: Callable[..., Any], source: str, settings: Mapping[str, Any]) -> Any:
    """``factory(**settings)``, or a :class:`ConfigError` that lists every unknown or missing setting."""
    problems = settings_problems(factory, settings)
    if problems:
        raise ConfigError(source, problems)
    return factory(**settings)
