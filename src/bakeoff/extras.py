"""Packages that only some people need: imported when they are used, and missed in one clear line."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bakeoff.errors import UserError


def optional(module: str, extra: str, purpose: str) -> Any:
    """An optional package's module.

    Raises:
        UserError: it is not installed; the message says what it is for and how to get it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise UserError(f"{purpose} needs the package {missing}; pip install 'bakeoff[{extra}]'") from error
