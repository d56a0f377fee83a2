"""The options of ``reset``: which prompts, which sub-environments, how many completions per prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bakeoff.envs.text_generation.episode_config import EpisodeConfig, Prompt
from bakeoff.envs.text_generation.episodes import Rows
from bakeoff.errors import PromptError, UserError
from bakeoff.names import did_you_mean

KNOWN = ("prompt", "prompt_indices", "group_size", "reset_mask")


@dataclass(frozen=True)
class ResetOptions:
    """The options of one reset, checked."""

    rows: Rows
    """Sub-environments to reset, in ascending order (N,)."""
    prompts: list[Prompt] | None
    """Their prompts (N), or None when they are to be drawn."""
    group_size: int
    """Each drawn prompt goes to this many neighboring sub-environments."""

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None, num_envs: int, config: EpisodeConfig) -> ResetOptions:
        """Check and resolve ``options``.

        Raises:
            UserError: an unknown option, options that exclude each other, or a value of the wrong shape or type.
            PromptError: a prompt that does not exist or does not fit.
        """
        options = dict(options or {})
        for name in options:
            if name not in KNOWN:
                near = did_you_mean(str(name), KNOWN)
                raise UserError(f'reset has no option "{name}"{near}; options are {", ".join(KNOWN)}')
        given = [name for name in ("prompt", "prompt_indices", "group_size") if options.get(name) is not None]
        if len(given) > 1:
            raise UserError(f"reset options {' and '.join(given)} exclude each other; give one of them")
        rows = _rows(options.get("reset_mask"), num_envs)
        group_size = _group_size(options.get("group_size"), num_envs, len(rows))
        prompts = _prompts(options, num_envs, config)
        return cls(rows, None if prompts is None else [prompts[row] for row in rows], group_size)


def _rows(mask: Any, num_envs: int) -> Rows:
    if mask is None:
        return np.arange(num_envs)
    if not isinstance(mask, np.ndarray) or mask.shape != (num_envs,) or mask.dtype != np.bool_:
        got = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise UserError(f"reset_mask must be a numpy array of bool of shape ({num_envs},), got {got}")
    if not mask.any():
        raise UserError("reset_mask is False everywhere; set it to True where an environment is to be reset")
    rows: Rows = np.flatnonzero(mask)
    return rows


def _group_size(value: Any, num_envs: int, num_rows: int) -> int:
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1 or num_envs % value:
        raise UserError(f"group_size is {value!r}, expected a whole number that divides num_envs ({num_envs})")
    if num_rows != num_envs and value > 1:
        raise UserError("group_size needs a reset of all sub-environments; leave out reset_mask")
    return int(value)


def _prompts(options: Mapping[str, Any], num_envs: int, config: EpisodeConfig) -> list[Prompt] | None:
    """One prompt for each sub-environment, whether it is reset or not; None when no prompt is given."""
    if options.get("prompt") is not None:
        texts = options["prompt"]
        if isinstance(texts, str):
            return [config.prompt_of_text(texts)] * num_envs
        if not isinstance(texts, Sequence) or len(texts) != num_envs:
            raise UserError(
                f"reset option prompt must be a text or a list of {num_envs} texts, one per sub-environment"
            )
        return [config.prompt_of_text(text) for text in texts]
    if options.get("prompt_indices") is not None:
        return [config.prompts[index] for index in _indices(options["prompt_indices"], num_envs, len(config.prompts))]
    return None


def _indices(value: Any, num_envs: int, num_prompts: int) -> npt.NDArray[np.integer[Any]]:
    indices = np.asarray(value)
    if indices.ndim == 0:
        indices = np.broadcast_to(indices, (num_envs,))
    if indices.dtype.kind not in "iu" or indices.shape != (num_envs,):
        raise UserError(f"prompt_indices must be a whole number or {num_envs} of them, one per sub-environment")
    if indices.min() < 0 or indices.max() >= num_prompts:
        raise PromptError(
            f"prompt_indices reach from {indices.min()} to {indices.max()}, expected 0 to {num_prompts - 1}"
        )
    return indices
