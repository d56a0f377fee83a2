"""Settings that every algorithm has."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Trainable = Literal["full", "lora", "top_layers"]

MODE_OF = {"lora_rank": "lora", "lora_alpha": "lora", "lora_targets": "lora", "top_layers": "top_layers"}
"""The value of `trainable` that each of these settings belongs to."""


class AlgorithmConfig(BaseModel):
    """Settings that every algorithm has. Subclasses add theirs, each with a line of help under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    batch_size: PositiveInt = 64
    """Completions collected in one update: the number of parallel environments."""
    kl_coef: float | None = Field(default=None, ge=0)
    """Beta: what one nat of KL to the reference costs, in units of reward. Default: the task's."""
    kl_budget: float | None = Field(default=None, gt=0)
    """Stop learning once the KL to the reference reaches this many nats per completion, in an update or an evaluation;
    null: never. The update that is over the limit counts, so a run ends a little beyond it."""
    learning_rate: float | Literal["auto"] = "auto"
    """Adam's step size at the start; `auto` derives it from the model's width (see docs/settings.md)."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """`linear` falls to 0 as the budget is spent; `constant` stays."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps over which the rate rises linearly, at most a tenth of the updates (see docs/settings.md): Adam's first steps are as
    long as the rate allows, whatever the gradient."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    micro_batch_size: PositiveInt | None = None
    """Completions in one forward and backward pass; gradients add up over a minibatch, so the update stays the same and
    needs less memory. Default: all at once."""
    gradient_checkpointing: bool = False
    """Keep only each block's input for the backward pass and compute the rest again: less memory, about a third slower."""
    trainable: Trainable = "full"
    """Which weights move: all (`full`), low-rank adapters (`lora`), or the highest blocks (`top_layers`)."""
    lora_rank: PositiveInt = 16
    """Rank of the adapters (`trainable: lora`)."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """Adapters are scaled by this over the rank (`trainable: lora`)."""
    lora_targets: tuple[str, ...] | None = None
    """Names of the linear layers that get adapters (`trainable: lora`); default: all but the head."""
    top_layers: PositiveInt = 2
    """How many of the highest blocks move, with the final norm (`trainable: top_layers`)."""

    @model_validator(mode="after")
    def _settings_belong_to_the_mode(self) -> AlgorithmConfig:
        """A changed setting that the chosen mode does not read is a mistake, not a wish to be ignored."""
        for name, mode in MODE_OF.items():
            if self.trainable != mode and getattr(self, name) != AlgorithmConfig.model_fields[name].default:
                raise ValueError(f'"{name}" belongs to trainable: {mode}, and trainable is {self.trainable}')
        return self
