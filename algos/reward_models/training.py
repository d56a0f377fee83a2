"""Training a reward model on human (or made) preferences, and measuring it on pairs that it has not seen.

``trainable: frozen`` computes the model's features once and fits a linear head by Newton's method, which takes seconds;
``lora`` and ``full`` fine-tune. All three give a model that plain transformers loads as a sequence classifier.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bakeoff.algos.reward_models.backbone import head_of, scalar_classifier
from bakeoff.algos.reward_models.bradley_terry import Head, fit_head
from bakeoff.algos.reward_models.config import RewardModelConfig
from bakeoff.algos.reward_models.features import pair_features
from bakeoff.algos.reward_models.fine_tuning import fine_tune
from bakeoff.algos.reward_models.metrics import FloatArray
from bakeoff.algos.reward_models.report import Measured, RewardModelReport, measure
from bakeoff.algos.reward_models.saving import check_writable, save_whole
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.preferences.load import folds_by_prompt, split_by_prompt
from bakeoff.envs.preferences.pair import PreferencePair
from bakeoff.envs.rewards.preference_model import PreferenceEnsemble, PreferenceModel
from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier
from bakeoff.errors import TrainingError

__all__ = ["Measured", "RewardModelConfig", "RewardModelReport", "measure", "train_reward_model"]

REPORT_FILE = "report.json"

Progress = Callable[[str], None]
"""Hears how far it is, in words."""


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
        evaluated=measure(trained.differences(evaluation), evaluation, "the evaluation pairs") if evaluation else None,
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


@dataclass(frozen=True)
class _Trained:
    members: list[PreferenceModel]
    measured: Measured
    cut_texts: int
    differences: Callable[[Sequence[PreferencePair]], FloatArray]
    """What the members' mean makes of further pairs."""
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
        chosen = [pairs[row] for row in rows]
        inner = folds_by_prompt(chosen, min(config.folds, len({pair.prompt for pair in chosen})), config.seed + 1)
        return fit_head(features_ND[rows], inner, margins_N=margins_N[rows], label_smoothing=config.label_smoothing)

    progress(f"fitting heads: {config.folds}-fold cross-validation")
    differences_N = np.empty(len(pairs))
    for fold in range(config.folds):
        inside = np.flatnonzero(folds == fold)
        head = fit(np.flatnonzero(folds != fold))
        differences_N[inside] = (features_ND[inside].double() @ head.weight_D).numpy()
    heads = [fit(rows) for rows in _members_rows(pairs, config)]
    members = [_with_head(model, head, copied=number > 0) for number, head in enumerate(heads)]

    def of_further(further: Sequence[PreferencePair]) -> FloatArray:
        features = pair_features(model, further, progress, cache).differences_ND.double()
        mean_D = torch.stack([head.weight_D for head in heads]).mean(0)
        found: FloatArray = (features @ mean_D).numpy()
        return found

    on = f"the folds left out of a {config.folds}-fold cross-validation by prompt"
    penalties = [head.penalty for head in heads]
    return _Trained(members, measure(differences_N, pairs, on), cut, of_further, penalties=penalties)


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
    measured = measure(reward.differences(held_out), held_out, on)
    return _Trained(members, measured, cut, reward.differences, history=history)


def _check_overlap(pairs: Sequence[PreferencePair], evaluation: Sequence[PreferencePair]) -> None:
    """Pairs to judge on must not have been learned from."""
    known = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs}
    shared = sum((pair.prompt, pair.chosen, pair.rejected) in known for pair in evaluation)
    if shared:
        raise TrainingError(
            f"{shared} of the {len(evaluation)} evaluation pairs are among the training pairs; remove them from one side"
        )
