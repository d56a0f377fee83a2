"""What the environment hands back for whole completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bakeoff.envs.language_model.completions import Completions


@dataclass(frozen=True)
class ScoredCompletions:
    """What came of whole completions."""

    completions: Completions
    """The completions that were played."""
    rewards_B: Tensor
    """The reward of each (float32), on the completions' device."""
    terminated_B: Tensor
    """True where it ended with an end-of-sequence token."""
    truncated_B: Tensor
    """True where the length limit cut it."""
    texts: tuple[str, ...]
    """The completions as text."""
    prompts: tuple[str, ...]
    """The prompts as text."""
    parts: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """By name, what each part of the reward gave; empty where it is not made of parts."""
