"""Settings of reward-model training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class RewardModelConfig(BaseModel):
    """How a reward model is trained, each setting with a line of help under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    trainable: Literal["frozen", "lora", "full"] = "frozen"
    """What moves: the head on frozen features, low-rank adapters and the head, or everything."""
    layers: PositiveInt | None = None
    """Keep only that many of the lowest blocks of a causal model; default: all."""
    format: Literal["auto", "chat", "plain"] = "auto"
    """How prompt and answer become one text; `auto` is the chat template where the tokenizer has one."""
    pooling: Literal["last", "answer_mean"] = "last"
    """Where the score is read: at the last token, as transformers does, or averaged over the answer's tokens, which suits
    frozen causal models (`trainable: frozen`)."""
    max_length: PositiveInt = 512
    """Tokens that are read of a text; the end is kept, for there stands the answer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of labels taken to be the wrong way round."""
    use_margin: bool = True
    """Ask for a difference of at least the pair's `margin`, where pairs have one."""
    folds: int = Field(default=5, ge=2)
    """Parts of the cross-validation that chooses the head's penalty and measures it (`trainable: frozen`)."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts held out for early stopping and measuring (`trainable: lora` and `full`)."""
    epochs: PositiveInt = 3
    """Passes over the pairs at most (`lora`, `full`)."""
    batch_size: PositiveInt = 16
    """Pairs in an update (`lora`, `full`)."""
    learning_rate: float | Literal["auto"] = Field(default="auto")
    """Adam's step size (`lora`, `full`); `auto` follows the model's width as for policies (docs/settings.md)."""
    evaluations_per_epoch: PositiveInt = 2
    """How often the held-out pairs are looked at (`lora`, `full`)."""
    patience: PositiveInt = 2
    """Stop after that many looks without a better held-out loss (`lora`, `full`)."""
    lora_rank: PositiveInt = 16
    """Rank of the adapters (`lora`)."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """Adapters are scaled by this over the rank (`lora`)."""
    members: PositiveInt = 1
    """How many models to train for an ensemble: each on prompts drawn with replacement (`frozen`), or from its own seed."""
    seed: int = Field(default=0, ge=0)
    """Decides splits, order and starting weights."""
    device: str = "cpu"
    """Where it trains."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in."""

    @model_validator(mode="after")
    def _settings_go_together(self) -> RewardModelConfig:
        if self.pooling != "last" and self.trainable != "frozen":
            raise ValueError(
                f'"pooling: {self.pooling}" belongs to trainable: frozen, and trainable is {self.trainable}'
            )
        if not isinstance(self.learning_rate, str) and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}, expected a number above 0")
        return self
