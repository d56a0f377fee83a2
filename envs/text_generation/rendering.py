"""Showing episodes as text."""

from __future__ import annotations

from typing import Any

from gymnasium import logger

from bakeoff.errors import UserError

METADATA: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}
"""``ansi``: ``render`` returns text; ``human``: every reset and step prints it."""


class RenderModeError(UserError, TypeError):
    """A render mode that there is not.

    Also a ``TypeError``: Stable-Baselines3's ``make_vec_env`` asks every environment for ``rgb_array``, and takes that
    error for "then without".
    """


def check_render_mode(mode: str | None) -> str | None:
    """The mode, if there is such a one.

    Raises:
        RenderModeError: there is not.
    """
    if mode is not None and mode not in METADATA["render_modes"]:
        raise RenderModeError(f"render_mode is {mode!r}, expected {', '.join(METADATA['render_modes'])} or None")
    return mode


def shown(lines: tuple[str, ...], mode: str | None) -> tuple[str, ...] | None:
    """The lines (``ansi``), or None after printing them (``human``) or warning that there is no mode."""
    if mode is None:
        logger.warn('render() needs a render_mode; make the environment with render_mode="ansi" or "human"')
        return None
    if mode == "human":
        print(*lines, sep="\n", flush=True)
        return None
    return lines
