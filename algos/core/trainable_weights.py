"""Which weights of a language model move, and how the frozen rest is shared with the reference.

`full`: a copy of the whole model. `lora`: the reference's own weights with low-rank adapters beside them (Hu et al. 2021).
`top_layers`: the reference's own weights below a cut, copies of the blocks above it and of the final norm. The last two hold one
whole model; the reference is the same tensors without what was added. Each starts as the reference exactly.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.language_model.split_trunk import names_above
from bakeoff.errors import ConfigError

ADAPTER_FOLDER = "adapter"
"""Where a saved policy keeps its adapters: not beside the merged weights, or transformers would add them once more."""


@dataclass(frozen=True)
class TrainableModel:
    """A model that learns, and the frozen reference it started from."""

    model: LanguageModel
    """Its weights that move need gradients, the others do not."""
    reference: LanguageModel
    """Never changed."""
    adapters: Any = None
    """PEFT's model around ``model.module`` where it has adapters."""

    def save(self, folder: str | Path) -> None:
        """Save the model so that plain transformers loads it, adapters merged in; they are kept beside it as well."""
        if self.adapters is None:
            self.model.save(folder)
            return
        merged = copy.copy(self.model)
        merged.module = copy.deepcopy(self.adapters).merge_and_unload()
        merged.save(folder)
        # No embedding is adapted; left to itself PEFT asks the hub whether the vocabulary has grown.
        self.adapters.save_pretrained(Path(folder) / ADAPTER_FOLDER, save_embedding_layers=False)


def make_trainable(reference: LanguageModel, config: AlgorithmConfig, generator: torch.Generator) -> TrainableModel:
    """A model to train beside its reference, as ``config`` says.

    Args:
        reference: it is frozen here; its weights and structure stay as they are.
        config: `trainable` and the settings that belong to it.
        generator: draws the adapters' starting weights.

    Raises:
        ConfigError: adapters for layers that the model does not have.
        ModelError: more top layers than blocks, or a family that cannot be split or cannot checkpoint gradients.
    """
    reference = reference.freeze()
    match config.trainable:
        case "full":
            trainable = TrainableModel(reference.copy(), reference)
            trainable.model.module.requires_grad_(True)
        case "lora":
            trainable = _with_adapters(reference, config, generator)
        case "top_layers":
            trainable = _with_own_top(reference, config.top_layers)
    if config.gradient_checkpointing:
        trainable.model.checkpoint_gradients()
    return trainable


def own_top(reference: LanguageModel, top_layers: int) -> LanguageModel:
    """A model whose top blocks and final norm are its own and need gradients; the rest is the reference's."""
    prefixes = names_above(reference.trunk, top_layers, reference.name)
    root = f"{reference.module.base_model_prefix}."

    def above(name: str) -> bool:
        return name.removeprefix(root).startswith(prefixes)

    model = reference.clone_sharing(above)
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad_(above(name))
    return model


def _with_own_top(reference: LanguageModel, top_layers: int) -> TrainableModel:
    split = reference.split_below(top_layers)
    return TrainableModel(own_top(split, top_layers), split)


def _with_adapters(reference: LanguageModel, config: AlgorithmConfig, generator: torch.Generator) -> TrainableModel:
    model = reference.clone_sharing(lambda name: False)
    model.module.name_or_path = reference.name  # what PEFT notes as the model that the adapters belong to
    targets = "all-linear" if config.lora_targets is None else list(config.lora_targets)
    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT only divides it by the rank
        target_modules=targets,
        lora_dropout=0.0,  # the log-probabilities of update and rollout would differ
        bias="none",
        task_type="CAUSAL_LM",
    )
    with _undisturbed():
        try:
            adapters = peft.get_peft_model(model.module, settings)
        except ValueError as error:
            problem = f"lora_targets {targets!r} cannot be adapted in {type(reference.module).__name__}"
            known = ", ".join(_linear_names(reference.module))
            raise ConfigError("lora", [f"{problem} ({str(error).splitlines()[0][:120]}); it has {known}"]) from error
    adapters.eval()
    for layer in model.module.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            for a in layer.lora_A.values():
                _draw(a.weight, generator)
    return TrainableModel(model, reference, adapters)


@torch.no_grad()
def _draw(weight: Any, generator: torch.Generator) -> None:
    """PEFT's own start for the first adapter matrix, uniform within 1/sqrt(inputs), from our generator."""
    start = torch.empty(weight.shape)
    nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
    weight.copy_(start)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """PEFT draws from torch's global generator, and warns of what it then handles itself (Conv1D) or what is its own affair."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.* is deprecated")
        yield


def _linear_names(module: nn.Module) -> list[str]:
    """The last part of the names of all linear layers, sorted."""
    kinds = [n.rpartition(".")[2] for n, m in module.named_modules() if type(m).__name__ in ("Linear", "Conv1D")]
    return sorted(set(kinds))
