"""TRL's GRPOTrainer and RLOOTrainer: they request completions and get those of the environment.

Settings are TRL's defaults (one step per batch, GRPO with the `dapo` loss) but for beta, which is the task's `kl_coef`; TRL's
own default for GRPO is none at all. In GRPO it multiplies k3 times the token's probability ratio in the loss, whose gradient on
policy is that of the reverse KL of each token by itself (k2's); in RLOO the log-ratio in the reward, which is the objective's own
gradient.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator

from bakeoff.algos.core.algorithm import DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import check_groups
from bakeoff.algos.losses.rounding import scores_from
from bakeoff.algos.trl.contestant import TRLAlgorithm, chosen, dataset, quiet, trl, unpadded
from bakeoff.envs.text_generation.episodes import ScoredCompletions
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class TRLOnlineConfig(AlgorithmConfig):
    """Settings of TRL's group algorithms."""

    group_size: int = Field(8, ge=2)
    """Completions of each prompt (TRL's `num_generations`); `batch_size` is a multiple of it."""
    epochs: PositiveInt = 1
    """Steps on each batch (TRL's `num_iterations`)."""
    clip: float = Field(0.2, gt=0)
    """How far the probability ratio may leave 1 (TRL's `epsilon`)."""


class TRLOnline(TRLAlgorithm):
    """Completions of the current policy, scored and learned from in groups."""

    data_source: ClassVar[DataSource] = DataSource.ONLINE
    Config: ClassVar[type[AlgorithmConfig]] = TRLOnlineConfig
    config: TRLOnlineConfig

    def __init__(
        self, config: AlgorithmConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        assert isinstance(config, TRLOnlineConfig)
        check_groups(type(self).__name__, config.batch_size, "group_size", config.group_size)
        self.scored_batch: ScoredCompletions | None = None
        self.origin: float | None = None
        super().__init__(config, policy, envs, rng)

    def update(self) -> Mapping[str, float]:
        """Play a batch, then let the trainer learn from it."""
        self.learning_rate.start_update(self.envs.progress)
        self.envs.reset(options={"group_size": self.config.group_size})
        completions = self.policy.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        self.scored_batch = self.envs.play(completions)
        inputs = [{"prompt": text} for text in self.scored_batch.prompts]
        with self._undisturbed():
            figures = mean_metrics([self.step(inputs) for _ in range(self.config.epochs)])
        noted = chosen(self.take_metrics(), {"kl": "kl_per_token", "entropy": "entropy", "reward_std": "reward_std"})
        scores_B, lengths_B = self.scored_batch.rewards_B, completions.lengths_B
        self.scored_batch = None
        return {"reward": float(scores_B.mean()), "length": float(lengths_B.float().mean()), **noted, **figures}

    def _make_trainer(self, folder: str) -> Any:
        config = self.config
        model, tokenizer = self._parts()
        arguments = self._arguments(
            folder,
            num_generations=config.group_size,
            num_iterations=config.epochs,
            max_completion_length=self.envs.max_new_tokens,
            epsilon=config.clip,
            beta=0.0,  # or it would load another copy of the reference
            **self._own_arguments(),
        )
        rows = dataset([{"prompt": "x"}] * config.batch_size)
        trainer = self._playing(getattr(trl(), self.trainer_name))(
            model=model, reward_funcs=[self.reward], args=arguments, train_dataset=rows, processing_class=tokenizer
        )
        if self.kl_coef > 0:
            trainer.beta, trainer.ref_model = self.kl_coef, self._reference()
            importlib.import_module("trl.trainer.utils").add_fused_lm_head(trainer.ref_model)
        return trainer

    def _own_arguments(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def _playing(self, trainer: type) -> Callable[..., Any]:
        """The trainer's class, or a function that makes one, with its generation replaced by the environment's completions."""

    def batch(self) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """The batch as TRL takes it: tokens of prompts and of completions, and the completions' texts."""
        assert self.scored_batch is not None
        completions = self.scored_batch.completions
        prompts = unpadded(completions.prompts.tokens_BP, completions.prompts.mask_BP)
        return prompts, unpadded(completions.tokens_BT, completions.mask_BT), list(self.scored_batch.texts)

    def reward(self, completions: list[str], **columns: Any) -> list[float]:
        """The rewards that the environment gave, counted from the first batch's mean.

        The trainers compare completions of one prompt, so a constant changes nothing but what float32, in which they compute,
        makes of it: equal rewards are exactly 0.
        """
        assert self.scored_batch is not None
        scores_B = self.scored_batch.rewards_B
        if self.origin is None:
            self.origin = float(scores_B.mean())
        return [float(score) for score in scores_from(self.origin, scores_B)]


class TRLGRPOConfig(TRLOnlineConfig):
    """Settings of TRL's GRPOTrainer."""

    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    """How token losses are averaged: over the batch's tokens (`dapo`, `bnpo`), over each completion first (`grpo`), or
    divided by the length limit (`dr_grpo`)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation advantages are divided by."""
    use_bias_correction_kl: bool = True
    """Multiply the k3 penalty of each token by its probability ratio, TRL's default: on policy the gradient is then that of the
    token's reverse KL. False: k3 alone, as in the GRPO paper."""

    @model_validator(mode="after")
    def _parts_add_up(self) -> TRLGRPOConfig:
        if self.loss_type == "bnpo" and self.micro_batch_size is not None and self.micro_batch_size < self.batch_size:
            raise ValueError(
                "loss_type bnpo averages over the tokens of each micro-batch, so micro_batch_size would change the update; "
                "leave it out, or give loss_type dapo"
            )
        return self


class TRLGRPO(TRLOnline):
    """TRL's GRPOTrainer: group relative policy optimization."""

    Config: ClassVar[type[AlgorithmConfig]] = TRLGRPOConfig
    config: TRLGRPOConfig
    trainer_name, config_name = "GRPOTrainer", "GRPOConfig"

    def _own_arguments(self) -> dict[str, Any]:
        config = self.config
        return {
            "loss_type": config.loss_type,
            "scale_rewards": config.scale_rewards,
            "use_bias_correction_kl": config.use_bias_correction_kl,
        }

    def _playing(self, trainer: type) -> Callable[..., Any]:
        return partial(quiet(trainer), rollout_func=self.rollout)

    def rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """TRL's ``rollout_func``: tokens of prompts and completions; its own log-probabilities are those of the sampler."""
        prompt_ids, completion_ids, _ = self.batch()
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}


class TRLRLOOConfig(TRLOnlineConfig):
    """Settings of TRL's RLOOTrainer."""

    normalize_advantages: bool = False
    """Bring the batch's advantages to mean 0 and standard deviation 1."""


class TRLRLOO(TRLOnline):
    """TRL's RLOOTrainer: REINFORCE with leave-one-out baselines."""

    Config: ClassVar[type[AlgorithmConfig]] = TRLRLOOConfig
    config: TRLRLOOConfig
    trainer_name, config_name = "RLOOTrainer", "RLOOConfig"

    def _own_arguments(self) -> dict[str, Any]:
        return {"normalize_advantages": self.config.normalize_advantages}

    def _playing(self, trainer: type) -> Callable[..., Any]:
        def generate(this: Any, prompts: list[str]) -> tuple[Any, ...]:  # RLOOTrainer has no rollout_func
            return self.batch()

        return type(trainer.__name__, (quiet(trainer),), {"_generate": generate})
