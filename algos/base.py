"""The contract between an algorithm and everything else. A plugin subclasses :class:`Algorithm`: one file, one entry point."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from bakeoff.envs.completions import Completions

if TYPE_CHECKING:
    from bakeoff.algos.policy import Policy
    from bakeoff.envs.exact.enumeration import Enumeration
    from bakeoff.envs.token_mdp import TextGenerationVectorEnv


class DataSource(enum.Enum):
    """Where an algorithm's training data come from."""

    NONE = "none"
    """It does not train."""
    ONLINE = "online"
    """Fresh completions of the current policy."""
    REPLAY = "replay"
    """Completions of earlier policies as well."""
    PREFERENCES = "preferences"
    """Pairs of completions, one preferred."""
    FEEDBACK = "feedback"
    """The model's own judgement; no reward is queried."""


class AlgorithmConfig(BaseModel):
    """Settings that every algorithm has. Subclasses add theirs, each with a line of help under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    batch_size: PositiveInt = 64
    """Completions collected in one update: the number of parallel environments."""
    kl_coef: float | None = Field(None, ge=0)
    """Beta, the price of one nat of KL to the reference; the task's own where none is given."""
    learning_rate: float | Literal["auto"] = "auto"
    """Adam's step size at the start; `auto` derives it from the model's width (see docs/settings.md)."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """`linear` falls to 0 as the budget is spent; `constant` stays."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global norm."""


class Contestant(Protocol):
    """What evaluation needs to know of a contestant: how it answers, and how far it is from the reference."""

    def answer(self, envs: TextGenerationVectorEnv, generator: torch.Generator) -> Completions:
        """One completion for each prompt that ``envs`` now shows (``envs.prompt_batch``); not yet played."""

    def sequence_kl(self, completions: Completions) -> Tensor:
        """Estimates of KL(contestant || reference) in nats, one for each completion it sampled, shape (B,)."""

    def statistics(self, completions: Completions) -> Mapping[str, Tensor]:
        """Further per-completion figures, each (B,): `entropy` (mean nats a token) and `reference_nll` (nats a token)."""

    def sequence_logprobs(self, enumeration: Enumeration) -> Tensor:
        """Log-probability of every enumerable completion, shape (prompts, N)."""


class Algorithm(ABC):
    """One contestant while it learns.

    The harness calls :meth:`update` until the budget is spent or :attr:`finished` is true. An algorithm gets completions
    by playing in ``envs`` and nowhere else, so the meter in there sees all it does.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    """The settings it takes."""
    data_source: ClassVar[DataSource]
    """Where its training data come from."""

    def __init__(
        self, config: AlgorithmConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        """Keep the parts.

        Args:
            config: an instance of this class's ``Config``.
            policy: the language model that learns, with its frozen reference.
            envs: the environments to play in; ``envs.num_envs == config.batch_size``.
            rng: the only source of randomness an algorithm may use.
        """
        self.config, self.policy, self.envs, self.rng = config, policy, envs, rng
        self.kl_coef: float = envs.kl_coef if config.kl_coef is None else config.kl_coef

    @abstractmethod
    def update(self) -> Mapping[str, float]:
        """Collect and learn once; returns metrics of this update."""

    @property
    def finished(self) -> bool:
        """True when another update would change nothing."""
        return False

    def contestant(self) -> Contestant:
        """Who answers when this algorithm is judged; the policy, unless a subclass says otherwise."""
        return self.policy

    def save(self, folder: str | Path) -> None:
        """Save the language model it has trained, so that plain transformers loads it."""
        self.policy.save(folder)

    def state_dict(self) -> dict[str, Any]:
        """Everything a killed run needs to go on bit for bit: nested dicts of tensors and JSON values.

        Saved are all attributes of this object that can tell their state (``state_dict``), generators, and plain numbers,
        strings and booleans. A subclass that keeps anything else (a list of completions, say) adds it here.
        """
        state: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, torch.Generator):
                state[name] = value.get_state()
            elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
                state[name] = value.state_dict()
            elif value is None or isinstance(value, bool | int | float | str):
                state[name] = value
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        for name, value in vars(self).items():
            if name not in state:
                continue
            if isinstance(value, torch.Generator):
                value.set_state(state[name])
            elif hasattr(value, "load_state_dict"):
                value.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])
