"""Kahneman-Tversky optimization (Ethayarajh et al. 2024): offline, from single completions that are judged good or bad.

For thumbs up and down, where no two answers to the same prompt were compared. Good completions gain implicit reward and bad
ones lose it, each less the further it is from a reference point, which is beta times an estimate of KL(pi || ref): the mean
log-ratio of other prompts' completions in the batch, never below 0, without a gradient.

Its optimum is not that of the KL-regularized objective. Without given data the reference answers and the reward judges each
answer by itself, one reward query each, against the mean reward so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.schedule import updates_of_passes
from bakeoff.algos.losses.preference import kto_loss
from bakeoff.algos.preference_data.judgments import Judgments, judge, read_judged
from bakeoff.algos.preference_data.label_temperature import (
    LabelTemperature,
    TemperatureSetting,
    check_temperature,
    resolve_beta,
)
from bakeoff.algos.preference_data.labels import Labels
from bakeoff.algos.preference_data.pairs import RowBuffer
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.text_generation.prompt_order import PromptOrder
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError


class KTOConfig(AlgorithmConfig):
    """Settings of Kahneman-Tversky optimization."""

    data: Path | tuple[dict[str, Any], ...] | None = None
    """A `.jsonl` file or a list of objects with `prompt`, `completion` and `label` (true for a good one). Default: each
    update samples `batch_size` completions of the reference, and the task's reward judges them."""
    epochs: PositiveInt = 3
    """With `data`: passes over them; then it has finished. Without, the budget ends it."""
    capacity: PositiveInt = 65_536
    """Without `data`: how many judged completions to keep."""
    train_batch_size: int = Field(default=128, ge=2)
    """Completions per gradient step, drawn from those there are."""
    gradient_steps: PositiveInt = 4
    """Gradient steps per update."""
    beta: float | None = Field(default=None, gt=0)
    """KTO's beta. Default: kl_coef / label_temperature; 0.1 with `labels: deterministic`."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """Weight of good completions in the loss."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """Weight of bad completions in the loss."""
    labels: Labels = "bradley_terry"
    """How the reward judges: good with probability sigmoid((reward - mean reward) / label_temperature), drawn
    (`bradley_terry`), kept as it is (`soft`), or whether the reward is above the mean (`deterministic`). A reward that equals the
    mean is judged one half."""
    label_temperature: TemperatureSetting = "auto"
    """Tau: by how much a reward has to differ from the mean for a judgment to be clear. `auto` measures it on the first completions
    whose rewards differ, so that 88 % of judgments are expected to agree with the side of the mean (soft ones: mean probability
    .75); 1 for given data. Not for `labels: deterministic`."""

    @model_validator(mode="after")
    def _labels_have_what_they_need(self) -> KTOConfig:
        check_temperature(self.labels, self.label_temperature)
        return self


class KTO(Algorithm):
    """Kahneman-Tversky optimization."""

    Config = KTOConfig
    data_source: ClassVar[DataSource] = DataSource.PREFERENCES
    config: KTOConfig

    def __init__(self, config: KTOConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        self.temperature = LabelTemperature(config.label_temperature, config.labels)
        if self.beta <= 0:
            raise ConfigError("kto", ['kl_coef is 0, so the loss is constant; give "beta", or a kl_coef above 0'])
        self.buffer: RowBuffer[Judgments] = RowBuffer(Judgments, None if config.data is not None else config.capacity)
        self.seen, self.reward_sum, self.cut_share = 0, 0.0, 0.0
        if config.data is not None:
            completions, desirable_B, self.cut_share = read_judged(config.data, policy.reference, envs.max_new_tokens)
            self.buffer.add(Judgments.with_reference(policy, completions, desirable_B))
        seed = int(torch.randint(2**62, (1,), generator=rng))
        self.order = None if config.data is None else PromptOrder(len(self.buffer), seed)
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=self.planned_updates
        )

    def update(self) -> Mapping[str, float]:
        """Get judged completions, and learn from all there are."""
        self.optimizer.start_update(self.progress)
        made = {"cut_share": self.cut_share} if self.config.data is not None else self.make()
        steps: list[dict[str, float]] = []
        while len(steps) < self.config.gradient_steps and not self.finished:
            rows = self.draw()
            self.seen += len(rows)
            steps.append(self.step(self.buffer.rows.select(rows)))
        metrics = mean_metrics(steps)
        good = metrics.pop("good")
        for name, share in (("chosen_logps", good), ("rejected_logps", 1 - good)):
            metrics[name] = metrics[name] / share if share > 0 else 0.0
        product, implicit, reward = (metrics.pop(name) for name in ("product", "implicit_square", "reward_square"))
        if reward > 0:
            metrics["proxy_correlation"] = product / math.sqrt(max(implicit * reward, 1e-30))
        return {**made, **metrics, "beta": self.beta, "data_size": float(len(self.buffer))}

    @property
    def beta(self) -> float:
        """The loss's beta; it follows from the judgments' temperature, which the first ones may decide."""
        return resolve_beta(self.config.beta, self.config.labels, self.kl_coef, self.temperature.value)

    def make(self) -> dict[str, float]:
        """A batch of the reference's completions, each judged against the mean reward so far."""
        self.envs.begin_batch()
        completions = self.policy.reference.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        rewards_B = self.envs.play(completions).rewards_B.cpu()
        self.reward_sum += float(rewards_B.double().sum())
        mean = self.reward_sum / (self.buffer.added + len(rewards_B))
        tau = self.temperature.update(rewards_B, torch.full_like(rewards_B, mean, dtype=torch.float64))
        desirable_B = judge(rewards_B, mean, self.config.labels, tau, self.rng)
        self.buffer.add(Judgments.with_reference(self.policy, completions, desirable_B, rewards_B=rewards_B))
        return {
            "reward": float(rewards_B.mean()),
            "length": float(completions.lengths_B.float().mean()),
            "desirable_share": float(desirable_B.mean()),
            **self.temperature.metrics(self.config.labels),
        }

    def draw(self) -> Tensor:
        """Row numbers of the next batch: in passes over given data, or any of those there are while they grow."""
        if self.order is None:
            return self.buffer.draw(self.config.train_batch_size, self.rng)
        left = self.config.epochs * len(self.buffer) - self.seen
        return torch.from_numpy(self.order.draw(min(self.config.train_batch_size, len(self.buffer), left)))

    def step(self, batch: Judgments) -> dict[str, float]:
        """One step; its loss is a mean over completions."""
        point = self.reference_point(batch)
        rows = torch.argsort(batch.completions.lengths_B, stable=True)  # a micro-batch holds little padding then
        mean_reward = float(batch.rewards_B.nan_to_num(0.0).mean())
        for part, share in self.optimizer.micro_batches(rows, torch.ones_like(rows)):
            loss, figures = self.loss(batch.select(part), point, mean_reward)
            (share * loss).backward()  # type: ignore[no-untyped-call]
            self.optimizer.log(share, figures)
        logs = self.optimizer.step()
        return {**logs, "reference_point": point}

    @torch.no_grad()
    def reference_point(self, batch: Judgments) -> float:
        """beta times the mean log-ratio of each completion after the next one's prompt, not below 0."""
        completions = batch.completions
        others = completions.prompts.select(torch.arange(len(batch)).roll(-1))
        ratios = []
        for rows in torch.split(torch.arange(len(batch)), self.config.micro_batch_size or len(batch)):
            part = Completions(others.select(rows), completions.tokens_BT[rows], completions.mask_BT[rows])
            ours_B = self.policy.model.token_logprobs(part).sum(1)
            ratios.append((ours_B - self.policy.reference_logprobs(part).sum(1)).cpu())
        return self.beta * max(0.0, float(torch.cat(ratios).mean()))

    def loss(self, part: Judgments, point: float, mean_reward: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some completions, and its figures."""
        logps_B = self.policy.model.token_logprobs(part.completions).sum(1)
        reference_B, good_B = part.reference_logps_B.to(logps_B.device), part.desirable_B.to(logps_B.device)
        loss = kto_loss(
            logps_B, reference_B, good_B, beta=self.beta, reference_point=point,
            desirable_weight=self.config.desirable_weight, undesirable_weight=self.config.undesirable_weight,
        ).mean()  # fmt: skip
        with torch.no_grad():
            implicit_B = self.beta * (logps_B - reference_B)
            rewards_B = (part.rewards_B.to(logps_B.device) - mean_reward).nan_to_num(0.0)
            above_B = (implicit_B > point).to(implicit_B)
            return loss, {
                "loss": loss,
                # Sums over either kind, divided by the number of all: `update` makes means of them.
                "accuracy": (good_B * above_B + (1 - good_B) * (1 - above_B)).mean(),
                "chosen_logps": (good_B * logps_B).mean(),
                "rejected_logps": ((1 - good_B) * logps_B).mean(),
                "good": good_B.mean(),
                "product": (implicit_B * rewards_B).mean(),
                "implicit_square": (implicit_B**2).mean(),
                "reward_square": (rewards_B**2).mean(),
            }

    @property
    def queries_needed(self) -> int:
        """One completion, where the reference makes the data."""
        return 1 if self.config.data is None else 0

    @property
    def planned_updates(self) -> int | None:
        """Updates that the passes over given data take, or the budget allows."""
        config = self.config
        if config.data is None:
            return self.envs.planned_updates
        return updates_of_passes(len(self.buffer), config.epochs, config.train_batch_size, config.gradient_steps)

    @property
    def progress(self) -> float:
        """From 0 to 1: of the passes over given data, or of the budget, whichever ends sooner."""
        done = 0.0 if self.config.data is None else self.seen / (self.config.epochs * len(self.buffer))
        return min(1.0, max(done, self.envs.progress))

    @property
    def finished(self) -> bool:
        """After the last pass over given data."""
        return self.config.data is not None and self.seen >= self.config.epochs * len(self.buffer)
