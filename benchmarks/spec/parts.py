"""The pieces that a suite is made of, as pydantic models: budgets, evaluations, entries, and how and where cells run."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from bakeoff.envs.meter import METERS

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
LABEL_RULE = "letters, digits and _ . + - (it names a folder), at most 64, starting with a letter or a digit"


def label(text: str) -> str:
    """The text, where it can name a folder."""
    if not LABEL.fullmatch(text) or text.endswith("."):
        raise ValueError(f'"{text[:80]}" cannot be a name: use {LABEL_RULE}')
    return text


def whole(value: Any) -> Any:
    """A float without a fraction as the integer it is; YAML reads ``2e4`` as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Label = Annotated[str, AfterValidator(label)]
Count = Annotated[int, BeforeValidator(whole), Field(gt=0, lt=2**53)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scalar = str | bool | int | float | None


class Part(BaseModel):
    """A piece of a suite: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class BudgetSpec(Part):
    """A limit on any of the meter's totals; at least one."""

    generated_tokens: Count | None = None
    """Limit on generated tokens."""
    reward_queries: Count | None = None
    """Limit on completions that the reward scores."""
    trained_tokens: Count | None = None
    """Limit on tokens of forward passes with gradients."""
    seconds: Positive | None = None
    """Limit on seconds of learning; results under it do not repeat exactly."""

    def limits(self) -> dict[str, float]:
        """The limits that are set."""
        return {name: value for name in METERS if (value := getattr(self, name)) is not None}


class EvaluateSpec(Part):
    """When and how contestants are evaluated."""

    every: BudgetSpec | None = None
    """One meter and an interval of it; a tenth of the budget where none is given."""
    completions: Annotated[int, BeforeValidator(whole), Field(ge=2, le=1_000_000)] = 256
    """Completions sampled at each evaluation, over the evaluation prompts in turn."""
    samples: Annotated[int, BeforeValidator(whole), Field(ge=0, le=10_000)] = 8
    """How many of them are kept as text, one for each of the first prompts."""


class TaskSpec(Part):
    """A task of the suite: its settings, and optionally its own budget."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, Any]
    task: str | None = None
    """The registered name, where the label is not it."""
    budget: BudgetSpec | None = None
    """Instead of the suite's budget."""


class AlgorithmSpec(Part):
    """A contestant of the suite: an algorithm and its settings."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, Any]
    algorithm: str | None = None
    """The registered name, where the label is not it."""


class RaySpec(Part):
    """How cells run under ``--executor ray``; changes no numbers."""

    address: str | None = None
    """A running cluster (`auto`, `HOST:6379`, `ray://HOST:10001`); by default a cluster is started on this machine."""
    cpus: Positive = 1.0
    """Cores that a cell requests."""
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """GPUs that a cell requests; a share such as 0.5 lets two cells use one."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """How often Ray restarts a cell whose worker or node died."""
    ship: bool = False
    """The nodes do not see the run folder: send results and checkpoints back over the network."""


class AccelerateSpec(Part):
    """Several processes for each cell, each with a device of its own."""

    processes: Annotated[int, BeforeValidator(whole), Field(ge=1, le=1024)] = 1
    """How many; rows are shared out over them, so figures change by rounding alone. With `device: cuda` each has one GPU."""


class RangeSpec(Part):
    """A range of numbers to search."""

    low: int | float
    """The lowest value."""
    high: int | float
    """The highest value; whole numbers are searched where both ends are whole."""
    log: bool = False
    """Search evenly in the logarithm."""


Searched = Annotated[
    Annotated[RangeSpec, Tag("range")] | Annotated[list[Scalar], Field(min_length=1), Tag("choices")],
    Discriminator(lambda value: "choices" if isinstance(value, list) else "range"),
]
"""A range, or a list of choices."""


class TuneSpec(Part):
    """What ``bakeoff tune`` does; a run ignores it."""

    trials: Annotated[int, BeforeValidator(whole), Field(ge=1, le=10_000)] = 16
    """Settings tried for each algorithm, its own among them: the same number for all."""
    seeds: Annotated[int, BeforeValidator(whole), Field(ge=1, le=1000)] = 1
    """Seeds of each trial; they are never among the suite's."""
    budget: BudgetSpec | None = None
    """What each cell of a trial may spend; the suite's budget where none is given."""
    space: dict[str, dict[str, Searched]] = Field(default_factory=dict)
    """Label to setting to a range or a list of choices; a label that is not here has a space made of its defaults."""
