"""Settings of Constitutional AI."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator

from bakeoff.algos.core.config import AlgorithmConfig

Stage = Literal["critique_revise", "ai_feedback"]


class ConstitutionalConfig(AlgorithmConfig):
    """Settings of Constitutional AI; it ends with its last stage, even where budget is left."""

    constitution: str | dict[str, Any] | tuple[str | dict[str, Any], ...] = "helpful-harmless"
    """The principles: `helpful-harmless` (chat models), `reviews` (the shipped review model), a `.yaml` or `.json` file, the
    content of one, or several of these."""
    stages: tuple[Stage, ...] = ("critique_revise", "ai_feedback")
    """Which stages run, always in this order."""
    critic: str | None = None
    """Model that criticizes and judges: a folder, a hub id, `package:NAME`; default: the policy as it was before training."""
    step_size: PositiveInt = 16
    """Completions or pairs in one step of learning, in either stage; `batch_size` is what is collected at a time."""
    chains: PositiveInt = 512
    """Stage 1: responses to collect, ordinary ones included, in whole batches."""
    revisions: PositiveInt = 2
    """Stage 1: rounds of critique and revision."""
    critique_tokens: PositiveInt = 64
    """Stage 1: length limit of a critique."""
    ordinary_column: str = "ordinary"
    """Stage 1: column of the prompts that is true on ordinary ones: those are answered, not revised, and the answers imitated, so
    that what was good stays."""
    ordinary_share: float = Field(default=0.1, ge=0, lt=1)
    """Stage 1: share of the drawn prompts that are treated as ordinary where the prompts have no such column."""
    resample: bool = True
    """Stage 1: answer each prompt once more, as the control that a revision has to beat. Costs one more response per chain."""
    epochs: PositiveInt = 2
    """Stage 1: passes over what was collected."""
    pairs: PositiveInt = 512
    """Stage 2: pairs of responses to judge, in whole half batches."""
    principles: PositiveInt = 4
    """Stage 2: principles that judge each pair; their probabilities are averaged."""
    clamp: float = Field(default=0.05, ge=0, lt=0.5)
    """Stage 2: probabilities are held between this and one less this, so that no label is certain."""
    feedback: Literal["dpo", "ppo"] = "dpo"
    """Stage 2: `dpo` trains on the preferences, `ppo` trains a preference model on them and runs PPO against it."""
    feedback_epochs: PositiveInt = 2
    """Stage 2: passes over the pairs."""
    feedback_beta: float = Field(default=0.1, gt=0)
    """Stage 2: DPO's beta, in nats: the smaller, the further a preference moves the policy."""
    feedback_reference: Literal["stage", "task"] = "stage"
    """Stage 2: DPO's reference: the policy with which the `stage` began, as in the paper, or the `task`'s model."""
    feedback_learning_rate: float | Literal["auto"] | None = None
    """Stage 2: Adam's step size at its start; default: that of stage 1."""

    ppo_updates: PositiveInt = 30
    """Stage 2, `feedback: ppo`: updates of PPO, each of `batch_size` completions."""
    ppo: dict[str, Any] = Field(default_factory=dict)
    """Stage 2, `feedback: ppo`: settings of PPO's own, such as `{epochs: 2}`."""

    @field_validator("stages")
    @classmethod
    def _some_stage(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if not stages or len(set(stages)) < len(stages):
            raise ValueError("name one stage or two different ones")
        return stages
