"""TRL's DPOTrainer on pairs that the environment has made: the reference's completions, labeled by the reward.

Each update plays a batch of the reference's completions, two for each prompt, adds the pairs to those at hand, and takes
some steps on pairs drawn from all of them. So the budget decides how many pairs there are, as for the other offline
algorithms here. A label is drawn with the probability sigmoid(difference of rewards / label_temperature) by default, the
Bradley-Terry model that DPO inverts: with beta = `kl_coef` / label_temperature the optimum of its loss is then the objective's,
pi ~ reference exp(reward / kl_coef). With `labels: deterministic` the greater reward always wins, as when people take the better
answer; beta is then one of its own, and nothing but the number of steps keeps the policy near the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from bakeoff.algos.core.algorithm import DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.replay_buffer import ReplayBuffer
from bakeoff.algos.core.rollout import Rollout
from bakeoff.algos.preference_data.label_temperature import (
    LabelTemperature,
    TemperatureSetting,
    check_temperature,
    resolve_beta,
)
from bakeoff.algos.trl.contestant import TRLAlgorithm, chosen, dataset, quiet, trl, unpadded
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError

FIGURES = {
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "chosen_logps",
    "logps/rejected": "rejected_logps",
}
"""TRL's names to ours."""


class TRLDPOConfig(AlgorithmConfig):
    """Settings of TRL's DPOTrainer."""

    loss_type: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    """Which loss, by TRL's names."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability with which a label is taken to be wrong (`loss_type: robust`, which needs some)."""
    labels: Literal["bradley_terry", "deterministic"] = "bradley_terry"
    """`bradley_terry`: drawn, with probability sigmoid(difference of rewards / label_temperature); `deterministic`: the greater
    reward, equal ones are left out."""
    label_temperature: TemperatureSetting = "auto"
    """Tau: by how much rewards have to differ for a label to be clear. `auto` measures it on the first pairs whose rewards differ,
    so that 88 % of such labels are expected to be right. Not for `labels: deterministic`."""
    beta: float | None = Field(default=None, gt=0)
    """DPO's beta. Default: kl_coef / label_temperature; 0.1 with `labels: deterministic`, which have no finite optimum."""
    pairs_per_step: PositiveInt = 64
    """Pairs in one step, drawn from all there are."""
    gradient_steps: PositiveInt = 4
    """Gradient steps per update."""
    pair_capacity: PositiveInt = 32_768
    """Pairs that the buffer keeps; the oldest are dropped first."""

    @model_validator(mode="after")
    def _smoothing_is_read(self) -> TRLDPOConfig:
        if self.label_smoothing and self.loss_type != "robust":
            raise ValueError(
                f"TRL ignores label_smoothing with loss_type {self.loss_type}; give loss_type: robust, or leave it out "
                "(dpo has label_smoothing with other losses)"
            )
        check_temperature(self.labels, self.label_temperature)
        return self


class TRLDPO(TRLAlgorithm):
    """TRL's DPOTrainer: direct preference optimization."""

    data_source: ClassVar[DataSource] = DataSource.PREFERENCES
    stays_without_signal: ClassVar[bool] = False
    Config: ClassVar[type[AlgorithmConfig]] = TRLDPOConfig
    config: TRLDPOConfig
    trainer_name, config_name = "DPOTrainer", "DPOConfig"

    def __init__(
        self, config: TRLDPOConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator
    ) -> None:
        problems = []
        if config.batch_size % 2:
            problems.append(f"batch_size {config.batch_size} is odd; completions are generated in pairs")
        self.temperature = LabelTemperature(config.label_temperature, config.labels)
        kl_coef = envs.kl_coef if config.kl_coef is None else config.kl_coef
        if resolve_beta(config.beta, config.labels, kl_coef, self.temperature.value) <= 0:
            problems.append("kl_coef is 0; DPO's beta is a number above 0")
        if problems:
            raise ConfigError("trl_dpo", problems)
        self.buffer = ReplayBuffer(2 * config.pair_capacity)  # chosen and rejected one after the other
        super().__init__(config, policy, envs, rng)

    def update(self) -> Mapping[str, float]:
        """Play a batch of the reference's completions, then let the trainer learn from pairs of all so far."""
        self.learning_rate.start_update(self.envs.progress)
        metrics = self.collect()
        if not len(self.buffer):
            return metrics
        self.trainer.beta = metrics["beta"] = self.beta
        steps = []
        with self._undisturbed():
            for _ in range(self.config.gradient_steps):
                steps.append({**self.step(self.draw()), **chosen(self.take_metrics(), FIGURES)})
        return {**metrics, **mean_metrics(steps)}

    @property
    def queries_needed(self) -> int:
        """One pair."""
        return 2

    @property
    def beta(self) -> float:
        """DPO's beta; it follows from the labels' temperature, which the first pairs may decide."""
        return resolve_beta(self.config.beta, self.config.labels, self.kl_coef, self.temperature.value)

    def collect(self) -> dict[str, float]:
        """Two completions of each prompt by the reference, labeled and kept."""
        self.envs.begin_batch(2)
        completions = self.policy.reference.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        scores_B = self.envs.play(completions).rewards_B
        tau = self.temperature.update(scores_B[0::2], scores_B[1::2])
        rows_P2 = labeled(scores_B, self.config.labels, tau, self.rng)
        if len(rows_P2):
            logprobs_BT = completions.logprobs_BT
            assert logprobs_BT is not None
            rollout = Rollout(completions, scores_B, logprobs_BT, logprobs_BT)
            self.buffer.add(rollout.select(rows_P2.flatten().to(scores_B.device)))
        return {
            "reward": float(scores_B.mean()),
            "length": float(completions.lengths_B.float().mean()),
            "pairs": len(self.buffer) / 2,
            **self.temperature.metrics(self.config.labels),
        }

    def draw(self) -> list[dict[str, list[int]]]:
        """Different pairs as TRL takes them, by their tokens."""
        pairs_N = torch.randperm(len(self.buffer) // 2, generator=self.rng)[: self.config.pairs_per_step]
        batch = self.buffer.batch(torch.stack([2 * pairs_N, 2 * pairs_N + 1], 1).flatten()).completions
        prompts = unpadded(batch.prompts.tokens_BP, batch.prompts.mask_BP)
        answers = unpadded(batch.tokens_BT, batch.mask_BT)
        return [
            {"prompt_ids": prompts[row], "chosen_ids": answers[row], "rejected_ids": answers[row + 1]}
            for row in range(0, len(prompts), 2)
        ]

    def _rows(self) -> int:
        return self.config.pairs_per_step

    def _split(self, inputs: list[dict[str, list[int]]]) -> Iterator[Any]:
        # Parts are of one size, for each weighs the same; while there are few pairs that is their largest common one.
        most = self.config.pairs_per_step // self.micro_batches
        size = next(size for size in range(min(most, len(inputs)), 0, -1) if len(inputs) % size == 0)
        for start in range(0, len(inputs), size):
            yield self.trainer.data_collator(inputs[start : start + size])

    def _make_trainer(self, folder: str) -> Any:
        config = self.config
        model, tokenizer = self._parts()
        arguments = self._arguments(
            folder,
            beta=self.beta,
            loss_type=[config.loss_type],
            label_smoothing=config.label_smoothing,
            max_length=None,
        )
        # Pairs come later, by their tokens; what is here only has the right columns.
        rows = dataset([{"prompt_ids": [0], "chosen_ids": [0], "rejected_ids": [0]}])
        as_it_is = {"_prepare_dataset": lambda self, rows, *rest: rows}
        kind = type(self.trainer_name, (quiet(getattr(trl(), self.trainer_name)),), as_it_is)
        return kind(
            model=model, ref_model=self._reference(), args=arguments, train_dataset=rows, processing_class=tokenizer
        )


def labeled(
    scores_B: Tensor, labels: Literal["bradley_terry", "deterministic"], temperature: float, generator: torch.Generator
) -> Tensor:
    """Row numbers of consecutive rows as pairs, the preferred one first, shape (pairs, 2).

    Args:
        scores_B: rewards; rows 2 i and 2 i + 1 answer the same prompt.
        labels: how the preferred one is found (see :class:`TRLDPOConfig`).
        temperature: tau of drawn labels, in units of the reward.
        generator: draws labels.
    """
    margins_P = (scores_B[0::2] - scores_B[1::2]).double().cpu()
    rows_P2 = torch.arange(2 * len(margins_P)).reshape(-1, 2)
    if labels == "deterministic":
        rows_P2, first_P = rows_P2[margins_P != 0], margins_P[margins_P != 0] > 0
    else:
        draws_P = torch.rand(len(margins_P), generator=generator, dtype=torch.float64)
        first_P = draws_P < (margins_P / temperature).sigmoid()
    return torch.where(first_P[:, None], rows_P2, rows_P2.flip(1))
