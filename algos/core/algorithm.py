"""The contract between an algorithm and everything else. A plugin subclasses :class:`Algorithm`: one file, one entry point."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.state import is_plain, restore_like, unserializable
from bakeoff.envs.language_model.completions import Completions
from bakeoff.errors import UserError

if TYPE_CHECKING:
    from bakeoff.algos.core.policy import Policy
    from bakeoff.envs.tasks.base import Task
    from bakeoff.envs.tasks.exact.enumeration import Enumeration
    from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class DataSource(enum.Enum):
    """Where an algorithm's training data come from."""

    NONE = "none"
    """No training."""
    ONLINE = "online"
    """Fresh completions of the current policy."""
    REPLAY = "replay"
    """Completions of earlier policies as well."""
    PREFERENCES = "preferences"
    """Pairs of completions, one preferred."""
    DEMONSTRATIONS = "demonstrations"
    """Given text to imitate; no reward is queried."""
    FEEDBACK = "feedback"
    """The model's own judgment; no reward is queried."""


WITHOUT_REWARD = (DataSource.NONE, DataSource.DEMONSTRATIONS, DataSource.FEEDBACK)
"""Sources that query no reward."""


class Contestant(Protocol):
    """What evaluation needs to know of a contestant: how it answers, and its distance from the reference."""

    def generate(self, envs: TextGenerationVectorEnv, generator: torch.Generator) -> Completions:
        """One completion for each prompt that ``envs`` now shows (``envs.prompt_batch``); not yet scored.

        Random numbers come from ``generator`` alone. All contestants get the same ones, so that their differences are less noisy.
        """

    def statistics(self, completions: Completions) -> Mapping[str, Tensor]:
        """Figures of each completion that it sampled, each (B,).

        `kl`, an estimate of KL(contestant || reference) in nats, is required; `entropy` (mean nats per token) and
        `reference_nll` (nats per token) are expected, and all further entries become metrics too. Where `kl` is only an
        upper bound, `kl_is_bound` is 1: reports then claim no lead that rests on it.
        """

    def sequence_logprobs(self, enumeration: Enumeration) -> Tensor:
        """Log-probability of every enumerable completion, shape (prompts, N)."""


class Algorithm(ABC):
    """One contestant while it learns.

    The harness calls :meth:`update` until :attr:`out_of_budget` or :attr:`finished` is true. An algorithm gets completions
    from ``envs`` and nowhere else, so the meter there counts everything.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    """The settings it takes."""
    data_source: ClassVar[DataSource]
    """Where its training data come from."""
    starts_as_reference: ClassVar[bool] = True
    """Before its first update it answers as the reference does, with default settings."""
    stays_without_signal: ClassVar[bool] = True
    """Where every completion has the same reward it stays at the reference, with default settings; False where it moves by design,
    as by imitating its own samples, by drawn labels, or with an entropy bonus."""
    saves_language_model: ClassVar[bool] = True
    """:meth:`save` leaves what plain transformers loads; False where what was trained is something else."""

    resumes_exactly: ClassVar[bool] = True
    """A killed run resumes bit for bit from a checkpoint; False where its state cannot be kept: such a cell writes no
    checkpoints, and one that is killed starts again from its beginning."""

    runs_as_several: ClassVar[bool] = True
    """A cell of it may run as several processes (``accelerate.processes``); False where a library underneath would take them for
    its own."""

    not_tuned: ClassVar[frozenset[str]] = frozenset()
    """Settings that `bakeoff tune` searches only where a suite lists them under ``tune.space``: those that set what an answer costs
    at inference, rather than how it learns, and those that have no effect."""

    def __init__(
        self, config: AlgorithmConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        """Keep the parts.

        Args:
            config: an instance of this class's ``Config``.
            policy: the language model that learns, with its frozen reference.
            envs: the environments; ``envs.num_envs == config.batch_size``.
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

    @property
    def queries_needed(self) -> int:
        """The fewest reward queries with which another update is possible; a cell that has fewer left is over.

        Default: a whole batch, or none where the data source is one that never calls the reward. An algorithm whose ``update``
        begins with ``envs.begin_batch``, which plays what the budget still pays for, returns the size of a group, or 1.
        """
        return 0 if self.data_source in WITHOUT_REWARD else self.config.batch_size

    @property
    def out_of_budget(self) -> bool:
        """True once a limit of the budget is reached, or the reward queries left are too few for another update."""
        budget, left = self.envs.budget, self.envs.queries_left
        if budget is not None and budget.exhausted(self.envs.meter):
            return True
        return left is not None and left < self.queries_needed

    @property
    def progress(self) -> float:
        """How far it has come by its own plan, 0 to 1; 0 where the budget alone decides. Progress bars show it."""
        return 0.0

    def records(self) -> list[dict[str, Any]]:
        """Records written since the last call, as JSON objects; the harness keeps them in ``records.jsonl``.

        Where an object has ``prompt``, ``prompt_index`` (of the train split) and ``texts``, a mapping of names to completions,
        the harness adds ``scores``: the scores of each by the task's judges. The algorithm never sees them.
        """
        return []

    @classmethod
    def example_settings(cls, task: Task) -> dict[str, Any]:
        """Settings to try it with on ``task``, where it cannot run without any: for example data of its own.

        Tests over all algorithms and ``bakeoff check`` use them; a run never does.
        """
        return {}

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be used here, in one line with the fix (a package to install); None where it can.

        Lets a module be imported, and its settings be listed, where what it needs is not installed.
        """
        return None

    def contestant(self) -> Contestant:
        """The model that answers in evaluations; the policy, unless a subclass returns another."""
        return self.policy

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """The weights that updates move; the policy's, unless a subclass returns others."""
        return self.policy.parameters()

    def save(self, folder: str | Path) -> None:
        """Save what it has trained: a language model that plain transformers loads (but see :attr:`saves_language_model`)."""
        self.policy.save(folder)

    def state_dict(self) -> dict[str, Any]:
        """Everything a killed run needs to resume bit for bit: nested dicts of tensors and JSON values.

        Saved are all attributes of this object that can tell their state (``state_dict``), generators, and plain data: numbers,
        text, tensors, arrays, and lists, tuples and dicts of them. A subclass that keeps anything else adds it here.

        Raises:
            UserError: a list, set or dict of something else, which would be lost silently.
        """
        state: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, torch.Generator):
                state[name] = value.get_state()
            elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
                state[name] = value.state_dict()
            elif is_plain(value):
                state[name] = value
            elif (held := unserializable(value)) is not None:
                raise UserError(
                    f"{type(self).__name__}.{name} collects {held}, which a checkpoint cannot hold; use a list or dict of numbers, "
                    "text and tensors, keep it in an object with state_dict and load_state_dict, or add it in state_dict()"
                )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, saved in state.items():
            value = vars(self).get(name)
            if isinstance(value, torch.Generator):
                value.set_state(saved)
            elif value is not None and hasattr(value, "load_state_dict"):
                value.load_state_dict(saved)
            elif name in vars(self) or not hasattr(self, name):  # what an update made comes back, too
                setattr(self, name, restore_like(saved, value, self.policy.model.device))
