"""What transformers calls a model's key-value cache.

Version 5.24 renamed the argument ``past_key_values`` (state-space models: ``cache_params``) to ``cache``; the old names warn from
then on and go in 5.40. A forward pass adds to the cache in place, so none has to be taken from the output, whose field was renamed
too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from transformers import Cache

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""The argument's names, the newest first."""


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """The name by which a forward pass takes its cache; None where it takes none."""
    parameters = inspect.signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), None)


def passes_cache(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call hands over a cache: under any of the names, or one of transformers' own in any place."""
    if any(kwargs.get(name) is not None for name in CACHE_NAMES):
        return True
    return any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
