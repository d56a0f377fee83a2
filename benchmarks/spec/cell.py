"""A cell: one task, one algorithm with its settings, one seed. The unit that runs, fails, resumes and is counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """Everything that decides a cell's numbers, and nothing that does not; all of it is plain JSON."""

    task: str
    """The task's label, which names its folder."""
    task_name: str
    """The name the task is registered under."""
    task_settings: Mapping[str, Any]
    """Settings of the task's factory."""
    label: str
    """The contestant's label, sweep values included; names its folder."""
    algorithm: str
    """The name the algorithm is registered under."""
    settings: Mapping[str, Any]
    """Settings of the algorithm, as the suite gives them."""
    seed: int
    """The seed as the suite counts it."""
    budget: Mapping[str, float]
    """Limits on the meter."""
    evaluate: Mapping[str, Any]
    """``every`` (one meter to an interval), ``completions`` and ``samples``."""

    @property
    def path(self) -> str:
        """The cell's folder, relative to the run's; also its name in messages."""
        return f"cells/{self.task}/{self.label}/seed-{self.seed}"

    @property
    def title(self) -> str:
        """A short name for people."""
        return f"{self.task} / {self.label} / seed {self.seed}"

    def training_seed(self) -> int:
        """The seed for the algorithm.

        It depends on the task and the seed and not on the label, so contestants of one seed get the same prompts in
        the same order, and renaming a label changes no number.
        """
        from bakeoff.seeding import derive_seed

        return derive_seed(self.seed, "training", self.task)

    def evaluation_seed(self, purpose: str) -> int:
        """A seed for evaluation, the same for every contestant and at every step."""
        from bakeoff.seeding import derive_seed

        return derive_seed(self.seed, "evaluation", self.task, purpose)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the pipe to a worker and for the store."""
        return asdict(self)

    def identity(self) -> str:
        """SHA-256 of all that it is: two cells that differ in anything differ in this."""
        text = json.dumps(self.to_json(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """The inverse of :meth:`to_json`."""
        return cls(**values)
