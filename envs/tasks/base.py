"""A task: what is optimized, from which model, on which prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bakeoff import registry

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel
    from bakeoff.envs.rewards.resolve import AnyReward, Reward
    from bakeoff.envs.tasks.exact.enumeration import Enumeration
    from bakeoff.envs.tasks.prompts import PromptSet


@dataclass(frozen=True)
class Measure:
    """A judge of one aspect of completions, of all prompts or of some."""

    reward: AnyReward
    """The values for each."""
    column: str | None = None
    """The prompts' column that decides which ones it looks at; all where none is named."""
    value: Any = True
    """The value that column has on those."""

    def concerns(self, columns: Mapping[str, Sequence[Any]], index: int) -> bool:
        """Whether it looks at completions of this prompt of a split, whose columns these are."""
        return self.column is None or columns[self.column][index] == self.value


@dataclass(frozen=True)
class Task:
    """The same question for every algorithm: maximize E[proxy] - kl_coef * KL(policy || reference)."""

    name: str
    """The name it is registered under."""
    language_model: LanguageModel
    """The reference: where every policy starts, and what the KL divergence is taken to."""
    prompts: PromptSet
    """Train and evaluation prompts, disjoint."""
    reward: Reward
    """The reward that is optimized (the proxy)."""
    max_new_tokens: int
    """Length limit of a completion; reaching it truncates."""
    kl_coef: float
    """Beta, in reward units per nat of sequence KL."""
    gold: Reward | None = None
    """A judge that no algorithm sees; None where there is none."""
    enumeration: Enumeration | None = None
    """Every possible completion, where they can be enumerated: evaluation is exact then."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The factory's arguments, for provenance."""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """Further judges that no algorithm sees, by name: each is reported on its own, and none of them decides who is better."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        """Returns itself: a task does not change, and Gymnasium would copy the whole model that ``make`` was given."""
        return self


def make_task(name: str, **settings: Any) -> Task:
    """Build a registered task.

    Raises:
        NotFoundError: no task of that name.
        UserError: a setting it does not take, or one it cannot use.
    """
    from bakeoff.envs.factory_settings import call_with_settings

    task: Task = call_with_settings(registry.tasks.load(name), f'task "{name}"', settings)
    return task
