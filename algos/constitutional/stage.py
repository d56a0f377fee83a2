"""What both stages have in common: collect by asking the model, then learn from what was collected in some epochs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from bakeoff.algos.constitutional.config import ConstitutionalConfig
from bakeoff.algos.constitutional.constitution import Constitution
from bakeoff.algos.constitutional.prompting import PromptedModel
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.schedule import updates_of_passes
from bakeoff.envs.text_generation.prompt_order import PromptOrder
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


@dataclass
class StageContext:
    """What a stage works with."""

    config: ConstitutionalConfig
    """The settings."""
    policy: Policy
    """What learns."""
    envs: TextGenerationVectorEnv
    """Where it answers."""
    rng: torch.Generator
    """The only source of randomness."""
    constitution: Constitution
    """The principles."""
    author: PromptedModel
    """The policy, prompted with text."""
    critic: PromptedModel
    """The model that criticizes and judges."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Chains and choices not yet fetched by the harness."""


class TrainingPhase:
    """Epochs over collected rows, with an optimizer of its own and a schedule that ends with them."""

    def __init__(self, context: StageContext, rows: int, epochs: int, seed: int, learning_rate: Any = None) -> None:
        """Args:
        context: gives the policy and the settings.
        rows: how many rows there are.
        epochs: passes over them.
        seed: of the order.
        learning_rate: instead of the settings'.
        """
        config = context.config
        if learning_rate is not None:
            config = config.model_copy(update={"learning_rate": learning_rate})
        planned = updates_of_passes(rows, epochs, config.step_size)
        self.optimizer = Optimizer(
            context.policy.parameters(), config, context.policy.model.width, planned_updates=planned
        )
        self.order = PromptOrder(max(1, rows), seed)
        self.rows, self.total, self.seen = rows, epochs * rows, 0

    def draw(self, size: int) -> Tensor:
        """The next row numbers: ``size`` of them, fewer at the end."""
        drawn = self.order.draw(min(size, self.rows, self.total - self.seen))
        self.seen += len(drawn)
        return torch.from_numpy(drawn)

    @property
    def progress(self) -> float:
        """Share of the rows that were drawn, from 0 to 1."""
        return self.seen / self.total if self.total else 1.0

    def state_dict(self) -> dict[str, Any]:
        """All that decides the steps to come."""
        return {"optimizer": self.optimizer.state_dict(), "order": self.order.state_dict(), "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.load_state_dict(state["order"])
        self.seen = state["seen"]


class TrainsOnCollected(Protocol):
    """What follows once all is collected: a :class:`TrainingPhase`, or another algorithm's updates."""

    @property
    def progress(self) -> float:
        """Share of it that is done, from 0 to 1."""

    def state_dict(self) -> dict[str, Any]:
        """All that decides the steps to come."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


AnyPhase = TypeVar("AnyPhase", bound=TrainsOnCollected)


class Stage(ABC, Generic[AnyPhase]):
    """A stage: batches are collected until there are enough, then learned in epochs."""

    def __init__(self, context: StageContext, buffer: Any, seed: int) -> None:
        """Args:
        context: what it works with.
        buffer: keeps what is collected; has a length and a state.
        seed: of the order in which it is learned.
        """
        self.context, self.buffer, self.seed = context, buffer, seed
        self.collected = 0
        self.phase: AnyPhase | None = None
        self.over = False

    @abstractmethod
    def collect(self) -> Mapping[str, float]:
        """Collect one batch, and count it in ``collected``."""

    @abstractmethod
    def learn(self, phase: AnyPhase) -> Mapping[str, float]:
        """Take one step."""

    @abstractmethod
    def begin_training(self) -> AnyPhase:
        """What there is to learn from all that was collected."""

    @property
    @abstractmethod
    def wanted(self) -> int:
        """How much is to be collected."""

    def update(self) -> Mapping[str, float]:
        """Collect a batch while some are wanting, else learn from one."""
        if self.collected < self.wanted:
            return self.collect()
        if self.phase is None:
            self.phase = self.begin_training()
        metrics = self.learn(self.phase)
        if self.phase.progress >= 1:  # what was collected and the optimizer's state need not be kept any longer
            self.phase, self.buffer, self.over = None, type(self.buffer)(), True
        return metrics

    @property
    def finished(self) -> bool:
        """All is learned; or all is collected and there is nothing to learn from."""
        return self.over or (self.collected >= self.wanted and self.phase is None and len(self.buffer) == 0)

    @property
    def progress(self) -> float:
        """0 to 1; collecting is taken for half of the way, learning for the other."""
        if self.finished:
            return 1.0
        trained = 0.0 if self.phase is None else self.phase.progress
        return (min(1.0, self.collected / self.wanted) + trained) / 2

    def state_dict(self) -> dict[str, Any]:
        """All that decides what it does next."""
        return {
            "seed": self.seed,
            "collected": self.collected,
            "over": self.over,
            "buffer": self.buffer.state_dict(),
            "phase": None if self.phase is None else self.phase.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.seed, self.collected, self.over = state["seed"], state["collected"], state["over"]
        self.buffer.load_state_dict(state["buffer"])
        self.phase = None
        if state["phase"] is not None:
            self.phase = self.begin_training()
            self.phase.load_state_dict(state["phase"])
