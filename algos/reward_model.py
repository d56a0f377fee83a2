"""Training a reward model on human (or made) preferences, and measuring it on pairs that it has not seen.

``trainable: frozen`` computes the model's features once and fits a linear head by Newton's method, which takes seconds;
``lora`` and ``full`` fine-tune. All three give a model that plain transformers loads as a sequence classifier.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bakeoff.algos.bradley_terry import Head, fit_head
from bakeoff.algos.reward_backbone import head_of, scalar_classifier
from bakeoff.algos.reward_config import RewardModelConfig
from bakeoff.algos.reward_features import pair_features
from bakeoff.algos.reward_fine_tuning import fine_tune
from bakeoff.algos.reward_measures import (
    Accuracy,
    Bin,
    FloatArray,
    accuracy,
    expected_calibration_error,
    floors,
    log_loss,
    reliability,
)
from bakeoff.algos.reward_saving import check_writable, save_whole
from bakeoff.envs.language_model import LanguageModel
from bakeoff.envs.preference_model import PreferenceEnsemble, PreferenceModel
from bakeoff.envs.preference_pairs import PreferencePair
from bakeoff.envs.preferences import folds_by_prompt, split_by_prompt
from bakeoff.envs.sequence_classifier import SequenceClassifier
from bakeoff.errors import TrainingError

__all__ = ["Measured", "RewardModelConfig", "RewardModelReport", "measure", "train_reward_model"]

REPORT_FILE = "report.json"

Progress = Callable[[str], None]
"""Hears how far it is, in words."""


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
        """The figures in words, a line each."""
        beaten = [name for name, floor in self.floors.items() if floor.value >= self.accuracy.low]
        return [
            f"accuracy {self.accuracy} on {self.on} ({self.accuracy.pairs:,} pairs)",
            *(f"  {name}: {floor}" for name, floor in self.floors.items()),
            f"log-loss {self.log_loss:.3f} (coin .693), expected calibration error {self.calibration_error:.3f}",
            *([f'the interval reaches down to the rule "{beaten[0]}": it may have learned no more'] if beaten else []),
        ]


@dataclass(frozen=True)
class RewardModelReport:
    """What came of the training."""

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
    """For each member a row at each look at the held-out pairs; empty where the head is fitted in one go."""
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


def train_reward_model(
    pairs: Sequence[PreferencePair],
    model: str | Path | LanguageModel,
    config: RewardModelConfig | None = None,
    out: str | Path | None = None,
    *,
    evaluation: Sequence[PreferencePair] = (),
    feature_cache: str | Path | None = None,
    progress: Progress = lambda line: None,
) -> RewardModelReport:
    """Train a reward model.

    Args:
        pairs: preferences; what is measured is split off by prompt.
        model: what to start from: a folder, hub id, GGUF file, ``package:NAME``, or a loaded language model (copied).
        config: the settings.
        out: a folder to save the model and ``report.json`` in; an older one there is replaced.
        evaluation: further pairs to measure on.
        feature_cache: a file that keeps the features of a frozen model from run to run.
        progress: hears how far it is.

    Raises:
        TrainingError: too few pairs or prompts, or a loss that is no longer finite.
        ModelError: the model cannot be loaded, or its family has no sequence classifier.
        UserError: the folder cannot be written.
    """
    config = config or RewardModelConfig()
    start = time.perf_counter()
    prompts = len({pair.prompt for pair in pairs})
    if len(pairs) < 10 or prompts < config.folds:
        raise TrainingError(
            f"{len(pairs)} pairs of {prompts} prompts are too few to train and to measure; "
            f"give at least 10 pairs of {config.folds} prompts"
        )
    _check_overlap(pairs, evaluation)
    if out is not None:
        check_writable(Path(out))
    if config.trainable == "frozen":
        trained = _frozen(pairs, model, config, progress, None if feature_cache is None else Path(feature_cache))
    else:
        trained = _fine_tuned(pairs, model, config, progress)
    reward = trained.members[0] if len(trained.members) == 1 else PreferenceEnsemble(trained.members)
    report = RewardModelReport(
        pairs=len(pairs),
        prompts=prompts,
        cut_texts=trained.cut_texts,
        measured=trained.measured,
        evaluated=measure(reward.differences(evaluation), evaluation, "the evaluation pairs") if evaluation else None,
        history=trained.history,
        penalties=trained.penalties,
        seconds=time.perf_counter() - start,
        config=config,
        base_model=model.name if isinstance(model, LanguageModel) else str(model),
        model=reward,
    )
    if out is not None:
        save_whole(Path(out), trained.members, {REPORT_FILE: report.as_json()})
    return report


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


@dataclass(frozen=True)
class _Trained:
    members: list[PreferenceModel]
    measured: Measured
    cut_texts: int
    history: list[list[dict[str, float]]] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)


def _start(model: str | Path | LanguageModel, config: RewardModelConfig, seed: int) -> PreferenceModel:
    classifier = scalar_classifier(
        model, layers=config.layers, max_length=config.max_length, device=config.device, dtype=config.dtype, seed=seed
    )
    return PreferenceModel(classifier, config.format, config.pooling)


def _frozen(
    pairs: Sequence[PreferencePair],
    source: str | Path | LanguageModel,
    config: RewardModelConfig,
    progress: Progress,
    cache: Path | None,
) -> _Trained:
    """A head on features that are computed once; measured by cross-validation, then fitted to all pairs."""
    model = _start(source, config, config.seed)
    progress(f"computing features of {2 * len(pairs):,} texts")
    found = pair_features(model, pairs, progress, cache)
    features_ND, cut = found.differences_ND, found.cut_texts
    margins_N = torch.tensor([(p.margin or 0.0) if config.use_margin else 0.0 for p in pairs], dtype=torch.float64)
    folds = np.array(folds_by_prompt(pairs, config.folds, config.seed))

    def fit(rows: Any) -> Head:
        """The penalty is chosen within these rows, so that a fold that is measured decides nothing."""
        inner = folds_by_prompt([pairs[row] for row in rows], config.folds, config.seed + 1)
        return fit_head(features_ND[rows], inner, margins_N=margins_N[rows], label_smoothing=config.label_smoothing)

    progress(f"fitting heads: {config.folds}-fold cross-validation")
    differences_N = np.empty(len(pairs))
    for fold in range(config.folds):
        inside = np.flatnonzero(folds == fold)
        head = fit(np.flatnonzero(folds != fold))
        differences_N[inside] = (features_ND[inside].double() @ head.weight_D).numpy()
    heads = [fit(rows) for rows in _members_rows(pairs, config)]
    members = [_with_head(model, head, copied=number > 0) for number, head in enumerate(heads)]
    on = f"the folds left out of a {config.folds}-fold cross-validation by prompt"
    return _Trained(members, measure(differences_N, pairs, on), cut, penalties=[head.penalty for head in heads])


def _members_rows(pairs: Sequence[PreferencePair], config: RewardModelConfig) -> list[Any]:
    """The rows that each member is fitted to: all, or for an ensemble those of prompts drawn with replacement."""
    if config.members == 1:
        return [np.arange(len(pairs))]
    by_prompt: dict[Any, list[int]] = {}
    for row, pair in enumerate(pairs):
        by_prompt.setdefault(pair.prompt, []).append(row)
    groups = list(by_prompt.values())
    rng = np.random.default_rng(config.seed)
    return [
        np.concatenate([groups[index] for index in rng.integers(len(groups), size=len(groups))])
        for _ in range(config.members)
    ]


def _with_head(model: PreferenceModel, head: Head, *, copied: bool) -> PreferenceModel:
    """The model with that head; members of an ensemble share all the rest."""
    classifier = model.model
    if copied:
        own = {id(weight) for weight in head_of(classifier.module, classifier.name).parameters()}
        tensors = [*classifier.module.parameters(), *classifier.module.buffers()]
        module = copy.deepcopy(classifier.module, memo={id(t): t for t in tensors if id(t) not in own})
        classifier = SequenceClassifier(
            module, classifier.tokenizer, name=classifier.name, max_length=classifier.max_length
        )
        model = PreferenceModel(classifier, model.text_format, model.pooling)
    with torch.no_grad():
        head_of(classifier.module, classifier.name).weight.copy_(head.weight_D[None])
    return model


def _fine_tuned(
    pairs: Sequence[PreferencePair], source: str | Path | LanguageModel, config: RewardModelConfig, progress: Progress
) -> _Trained:
    """Adapters or all weights, stopped early and measured on held-out prompts."""
    train, held_out = split_by_prompt(pairs, config.held_out, config.seed)
    if not train or not held_out:
        raise TrainingError(f"holding out {config.held_out} of the prompts leaves nothing to train or to measure on")
    members, history = [], []
    cut = 0
    for number in range(config.members):
        model = _start(source, config, config.seed + number)
        cut = sum(
            len(ids) >= model.model.max_length
            for side in ("chosen", "rejected")
            for ids in model.encode([p.prompt for p in pairs], [getattr(p, side) for p in pairs])
        )

        def tell(look: dict[str, float], number: int = number) -> None:
            figures = ", ".join(f"{name} {value:.3f}" for name, value in look.items())
            progress(f"model {number + 1} of {config.members}: {figures}")

        history.append(fine_tune(model, train, held_out, config, config.seed + number, tell))
        members.append(model)
    reward = members[0] if len(members) == 1 else PreferenceEnsemble(members)
    on = "held-out prompts, which also decided when to stop"
    return _Trained(members, measure(reward.differences(held_out), held_out, on), cut, history=history)


def _check_overlap(pairs: Sequence[PreferencePair], evaluation: Sequence[PreferencePair]) -> None:
    """Pairs to judge on must not have been learned from."""
    known = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs}
    shared = sum((pair.prompt, pair.chosen, pair.rejected) in known for pair in evaluation)
    if shared:
        raise TrainingError(
            f"{shared} of the {len(evaluation)} evaluation pairs are among the training pairs; remove them from one side"
        )
