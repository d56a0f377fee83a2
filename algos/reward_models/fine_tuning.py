"""Fine-tuning a reward model, whole or by adapters, with early stopping on held-out pairs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor

from bakeoff.algos.core.optimizer import BETAS, LORA_FACTOR, auto_learning_rate
from bakeoff.algos.reward_models.bradley_terry import bradley_terry_loss
from bakeoff.algos.reward_models.config import RewardModelConfig
from bakeoff.algos.reward_models.metrics import log_loss
from bakeoff.envs.preferences.pair import PreferencePair
from bakeoff.envs.rewards.preference_model import PreferenceModel
from bakeoff.errors import ModelError, TrainingError
from bakeoff.seeding import OwnRandomness

_MAX_GRAD_NORM = 1.0
_WARMUP_SHARE = 0.1

Report = Callable[[dict[str, float]], None]
"""Is called with the figures of each evaluation on the held-out pairs."""


def fine_tune(
    model: PreferenceModel,
    train: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    config: RewardModelConfig,
    seed: int,
    report: Report,
) -> list[dict[str, float]]:
    """Train in place; the weights end as they were at the best evaluation on the held-out pairs.

    Returns:
        A row per evaluation: ``epoch``, ``train_loss`` since the one before, ``held_out_loss`` (nats) and ``accuracy``.

    Raises:
        TrainingError: the loss or the gradient is no longer a finite number.
    """
    module = _with_trainable_weights(model, config, seed)
    weights = [p for p in module.parameters() if p.requires_grad]
    width = int(model.model.module.config.get_text_config().hidden_size)
    factor = LORA_FACTOR if config.trainable == "lora" else 1.0
    rate = config.learning_rate if not isinstance(config.learning_rate, str) else factor * auto_learning_rate(width)
    adam = torch.optim.Adam(weights, lr=rate, betas=BETAS)
    chosen = model.encode([p.prompt for p in train], [p.chosen for p in train])
    rejected = model.encode([p.prompt for p in train], [p.rejected for p in train])
    margins = torch.tensor([(p.margin or 0.0) if config.use_margin else 0.0 for p in train])
    order = np.random.default_rng(seed)
    batches_an_epoch = math.ceil(len(train) / config.batch_size)
    steps = config.epochs * batches_an_epoch
    look_every = max(1, math.ceil(batches_an_epoch / config.evaluations_per_epoch))
    history: list[dict[str, float]] = []
    best: tuple[float, list[Tensor]] = (math.inf, [])
    losses: list[float] = []
    worse = step = 0
    for _ in range(config.epochs):
        for rows in np.array_split(order.permutation(len(train)), batches_an_epoch):
            for group in adam.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / max(1.0, _WARMUP_SHARE * steps)) * (1 - step / steps)
            loss = _step(
                model, adam, weights, [*(chosen[i] for i in rows), *(rejected[i] for i in rows)], margins[rows], config
            )
            if not math.isfinite(loss):
                raise TrainingError(
                    f"training of the reward model: the loss is {loss} in update {step + 1} (learning rate {rate:.1e}); "
                    "lower learning_rate, or use dtype float32"
                )
            losses.append(loss)
            step += 1
            if step % look_every and step < steps:
                continue
            differences_N = model.differences(held_out)
            look = {
                "epoch": step / batches_an_epoch,
                "train_loss": float(np.mean(losses)),
                "held_out_loss": log_loss(differences_N),
                "accuracy": float(((np.sign(differences_N) + 1) / 2).mean()),
            }
            history.append(look)
            report(look)
            losses, worse = [], worse + 1
            if look["held_out_loss"] < best[0]:
                best, worse = (look["held_out_loss"], [w.detach().clone() for w in weights]), 0
            if worse >= config.patience:
                break
        if worse >= config.patience:
            break
    with torch.no_grad():
        for weight, value in zip(weights, best[1], strict=True):
            weight.copy_(value)
    if config.trainable == "lora":
        model.model.module = module.merge_and_unload().eval()
    return history


def _step(
    model: PreferenceModel,
    adam: torch.optim.Adam,
    weights: Sequence[Tensor],
    encoded: Sequence[Sequence[int]],
    margins_B: Tensor,
    config: RewardModelConfig,
) -> float:
    """One update on the chosen answers followed by the rejected ones; the loss before it, which nothing follows if not finite."""
    scores = model.model.forward(encoded)[:, 0].float()
    half = len(encoded) // 2
    differences_B = scores[:half] - scores[half:]
    loss = bradley_terry_loss(differences_B, margins_B.to(scores.device), config.label_smoothing).mean()
    adam.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(torch.nn.utils.clip_grad_norm_(weights, _MAX_GRAD_NORM))
    if not math.isfinite(norm):
        return norm
    adam.step()
    return float(loss.detach())


def _with_trainable_weights(model: PreferenceModel, config: RewardModelConfig, seed: int) -> Any:
    """The module whose weights move; adapters are put into the model's own module."""
    module = model.model.module
    if config.trainable == "full":
        module.requires_grad_(True)
        return module
    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT only divides it by the rank
        target_modules="all-linear",
        lora_dropout=0.0,
        bias="none",
        task_type="SEQ_CLS",
    )
    try:
        with OwnRandomness(seed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT asks under the older name
            adapted = peft.get_peft_model(module, settings).eval()
    except ValueError as error:
        raise ModelError(f'"{model.model.name}" cannot have adapters: {str(error).splitlines()[0][:200]}') from error
    return adapted
