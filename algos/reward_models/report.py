"""The result of training a reward model, and how good it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bakeoff.algos.reward_models.config import RewardModelConfig
from bakeoff.algos.reward_models.metrics import (
    Accuracy,
    Bin,
    FloatArray,
    accuracy,
    expected_calibration_error,
    floors,
    log_loss,
    reliability,
)
from bakeoff.envs.preferences.pair import PreferencePair
from bakeoff.envs.rewards.preference_model import PreferenceEnsemble, PreferenceModel


@dataclass(frozen=True)
class Measured:
    """A reward model on pairs that it has not seen."""

    on: str
    """Which pairs, in words."""
    accuracy: Accuracy
    """Share in the right order, with a 95 % interval."""
    floors: dict[str, Accuracy]
    """The same for rules that read no meaning."""
    log_loss: float
    """Mean -log P(the chosen answer wins), in nats; .693 for a coin."""
    calibration_error: float
    """Expected calibration error."""
    reliability: list[Bin]
    """Confidence against accuracy."""

    def lines(self) -> list[str]:
        """The figures in words, one line each."""
        beaten = [name for name, floor in self.floors.items() if floor.value >= self.accuracy.low]
        return [
            f"accuracy {self.accuracy} on {self.on} ({self.accuracy.pairs:,} pairs)",
            *(f"  {name}: {floor}" for name, floor in self.floors.items()),
            f"log-loss {self.log_loss:.3f} (coin .693), expected calibration error {self.calibration_error:.3f}",
            *([f'the interval reaches down to the rule "{beaten[0]}": it may have learned no more'] if beaten else []),
        ]


@dataclass(frozen=True)
class RewardModelReport:
    """The result of the training."""

    pairs: int
    """Pairs that it was given."""
    prompts: int
    """Distinct prompts among them."""
    cut_texts: int
    """Texts of which only the end was read."""
    measured: Measured
    """On pairs that training did not see."""
    evaluated: Measured | None
    """On pairs that the caller gave for this alone."""
    history: list[list[dict[str, float]]]
    """For each member a row per evaluation on the held-out pairs; empty where the head is fitted in one go."""
    penalties: list[float]
    """For each member the head's L2 penalty; empty where it was fine-tuned."""
    seconds: float
    """Wall-clock seconds."""
    config: RewardModelConfig
    """The settings."""
    base_model: str
    """What it started from."""
    model: PreferenceModel | PreferenceEnsemble = field(repr=False, compare=False)
    """The trained model, which is also a reward."""

    def as_json(self) -> dict[str, Any]:
        """Everything but the model, as JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("model", "config")}
        plain: dict[str, Any] = json.loads(json.dumps(values, default=dataclasses.asdict))
        return {**plain, "config": self.config.model_dump(mode="json")}


def measure(differences_N: FloatArray, pairs: Sequence[PreferencePair], on: str) -> Measured:
    """How good score differences of some pairs are, ``on`` being those pairs in words."""
    bins = reliability(differences_N)
    return Measured(
        on,
        accuracy(differences_N, pairs),
        floors(pairs),
        log_loss(differences_N),
        expected_calibration_error(bins),
        bins,
    )
