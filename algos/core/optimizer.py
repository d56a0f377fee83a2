"""The optimizer, the same for every algorithm: micro-batches, gradient clipping, Adam, a schedule that follows the budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bakeoff import distributed
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.schedule import LearningRate

BETAS = (0.9, 0.99)
"""Adam's decay rates; a shorter second-moment memory than torch's .999 suits runs of a few hundred steps."""
REFERENCE_WIDTH, REFERENCE_RATE = 32, 2e-3
"""A width and the rate that trial runs found good there."""
LORA_FACTOR = 10.0
"""Adapters want about ten times the rate of whole weights (Schulman et al. 2025, "LoRA without regret")."""


def auto_learning_rate(width: int) -> float:
    """A starting rate for a model of this hidden width: 2e-3 at width 32, falling with width^1.5.

    An interpolation, not a law: it gives 1.7e-5 at width 768 (Ziegler et al. 2019 fine-tuned GPT-2 small with 1.41e-5)
    and 4e-6 at width 2048 (3e-6 is common for PPO on models of a billion weights).
    """
    return float(REFERENCE_RATE * (REFERENCE_WIDTH / width) ** 1.5)


def starting_rate(config: AlgorithmConfig, width: int) -> float:
    """The learning rate that a configuration asks for, on a model of this hidden width."""
    if not isinstance(config.learning_rate, str):
        return config.learning_rate
    return auto_learning_rate(width) * (LORA_FACTOR if config.trainable == "lora" else 1.0)


class Optimizer:
    """Adam over some parameters, with gradient accumulation, gradient clipping and a learning-rate schedule.

    Weights in half precision get a float32 master copy: an update of 1e-5 would vanish in bfloat16's three digits.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        config: AlgorithmConfig,
        width: int,
        *,
        planned_updates: int | None = None,
    ) -> None:
        """Args:
        parameters: those to train; ones that need no gradient are left out.
        config: gives the rate, its schedule, the clipping norm and the size of micro-batches.
        width: hidden width of the model, for `learning_rate: auto`.
        planned_updates: how many updates there will be, or the least that they can be, which bounds the warm-up: the
            environment's ``planned_updates``, or what passes over given data take; None where that is unknown.
        """
        self.parameters = [p for p in parameters if p.requires_grad]
        self._masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self.parameters]
        self.learning_rate = LearningRate(config, starting_rate(config, width), planned_updates)
        self.max_grad_norm, self.micro_batch_size = config.max_grad_norm, config.micro_batch_size
        self._figures: dict[str, float] = {}
        self._shard: Any = None
        # On a CPU torch's default makes a dozen passes over the weights where its fused kernel makes one: five times the time.
        on_cpu = all(master.device.type == "cpu" for master in self._masters)
        self._adam = torch.optim.Adam(
            self._masters, lr=self.learning_rate.initial_rate, betas=BETAS, fused=on_cpu or None
        )

    def start_update(self, progress: float) -> None:
        """Fix the learning rate of an update; called once, first thing in an algorithm's ``update``, before it collects.

        Args:
            progress: share of the budget, or of the passes over given data, that is spent before this update; 0 to 1.
        """
        self.learning_rate.start_update(progress)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._shard, self._figures = None, {}
        for parameter in self.parameters:
            parameter.grad = None

    def micro_batches(
        self, rows: Tensor, weights: Tensor, *, completions_per_row: int = 1
    ) -> Iterator[tuple[Tensor, float]]:
        """The parts of a minibatch, at most ``micro_batch_size`` completions each, with the share of each part in it.

        Gradients are zero at the start. A loss that is a mean over a part's rows, times the part's share, adds up over the parts
        to the loss and the gradient of the whole minibatch, whatever the size of the parts. Where several processes run the cell,
        each gets its own rows.

        Args:
            rows: row numbers of the minibatch, shape (N,).
            weights: the weight of each row in the means that the loss takes: its real tokens where that is a mean over tokens,
                ones where it is a mean over rows; shape (N,).
            completions_per_row: two where rows are pairs. A part has at least one row.
        """
        self.zero_grad()
        size = len(rows) if self.micro_batch_size is None else max(1, self.micro_batch_size // completions_per_row)
        total = max(float(weights.sum()), 1e-12)
        if not distributed.should_shard(len(rows)):
            yield from _parts(rows, weights, size, total)
            return
        mine = list(distributed.shard(len(rows)))
        with distributed.apart() as self._shard:
            yield from _parts(rows[mine], weights[mine], size, total)

    def log(self, share: float, figures: Mapping[str, Tensor]) -> None:
        """Add a part's figures to those of the step, weighted by the part's share."""
        for name, value in figures.items():
            self._figures[name] = self._figures.get(name, 0.0) + share * float(value.detach())

    def step(self) -> dict[str, float]:
        """One step along the gradients that were added up since :meth:`zero_grad` or :meth:`micro_batches`.

        A gradient that is not finite changes nothing and raises, so a bad batch cannot ruin the weights.

        Returns:
            The logged figures, `grad_norm`, the gradient's norm before clipping, and `learning_rate`, the rate of this step.

        Raises:
            UserError: :meth:`start_update` was not called before.
            FloatingPointError: the gradient is not finite.
        """
        figures = self._figures if self._shard is None else distributed.total_of(self._shard, self._figures)
        # Without shards the processes' gradients are equal up to rounding; from here on they are equal.
        distributed.all_reduce_gradients(self.parameters, mean=self._shard is None)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not norm < float("inf"):
            raise FloatingPointError(f"the gradient's norm is {norm}; lower learning_rate, or check the reward's scale")
        rate = self.learning_rate.next()
        for group in self._adam.param_groups:
            group["lr"] = rate
        halves = [(p, m) for p, m in zip(self.parameters, self._masters, strict=True) if p is not m]
        for parameter, master in halves:
            master.grad = None if parameter.grad is None else parameter.grad.float()
        self._adam.step()
        with torch.no_grad():
            for parameter, master in halves:
                parameter.copy_(master)
                master.grad = None
        return {**figures, "grad_norm": norm, "learning_rate": rate}

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments by the parameter's position, how far the warm-up is, and the master copies of half-precision weights."""
        state: dict[str, Any] = {
            str(i): self._adam.state[m] for i, m in enumerate(self._masters) if m in self._adam.state
        }
        pairs = enumerate(zip(self.parameters, self._masters, strict=True))
        masters = {str(i): m for i, (p, m) in pairs if p is not m}
        return {**state, "schedule": self.learning_rate.state_dict(), **({"masters": masters} if masters else {})}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._adam.state.clear()
        for index, saved in state.items():
            if index == "masters":
                for i, master in saved.items():
                    self._masters[int(i)].copy_(master)
            elif index == "schedule":
                self.learning_rate.load_state_dict(saved)
            else:
                master = self._masters[int(index)]
                self._adam.state[master] = {
                    key: value.to("cpu" if key == "step" else master.device, copy=True) for key, value in saved.items()
                }


def _parts(rows: Tensor, weights: Tensor, size: int, total: float) -> Iterator[tuple[Tensor, float]]:
    for part, part_weights in zip(torch.split(rows, size), torch.split(weights, size), strict=True):
        yield part, float(part_weights.sum()) / total


def mean_metrics(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over some steps that all have the same figures."""
    means = {}
    for name in steps[0]:
        total = 0.0
        for step in steps:
            total += step[name]
        means[name] = total / len(steps)
    return means
