"""One optimiser step, the same for every algorithm: backward, clip, Adam, a schedule that follows the budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bakeoff.algos.base import AlgorithmConfig

BETAS = (0.9, 0.99)
"""Adam's decay rates; a shorter second-moment memory than torch's .999 suits runs of a few hundred steps."""
REFERENCE_WIDTH, REFERENCE_RATE = 32, 2e-3
"""A width and the rate that trial runs found good there."""


def auto_learning_rate(width: int) -> float:
    """A starting rate for a model of this hidden width: 2e-3 at width 32, falling with width^1.5.

    An interpolation, not a law: it gives 1.7e-5 at width 768 (Ziegler et al. 2019 fine-tuned GPT-2 small with 1.41e-5)
    and 4e-6 at width 2048 (3e-6 is common for PPO on models of a billion weights).
    """
    return float(REFERENCE_RATE * (REFERENCE_WIDTH / width) ** 1.5)


class Optimizer:
    """Adam over some parameters, with gradient clipping and a learning-rate schedule."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], config: AlgorithmConfig, width: int) -> None:
        """Args:
        parameters: those to train; ones that need no gradient are left out.
        config: gives the rate, its schedule and the clipping norm.
        width: hidden width of the model, for `learning_rate: auto`.
        """
        self.parameters = [p for p in parameters if p.requires_grad]
        rate = config.learning_rate
        self.initial_rate = auto_learning_rate(width) if isinstance(rate, str) else rate
        self.schedule, self.max_grad_norm = config.learning_rate_schedule, config.max_grad_norm
        self._adam = torch.optim.Adam(self.parameters, lr=self.initial_rate, betas=BETAS)

    def rate(self, progress: float) -> float:
        """The learning rate when this share of the budget is spent."""
        return self.initial_rate * (1 - progress if self.schedule == "linear" else 1)

    def step(self, loss: Tensor, progress: float) -> float:
        """Minimise ``loss`` by one step; returns the gradient's norm before clipping.

        A loss or gradient that is not finite changes nothing and raises, so a bad batch cannot ruin the weights.
        """
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not norm < float("inf"):
            raise FloatingPointError(
                f"the gradient's norm is {norm} (loss {float(loss.detach())}); lower learning_rate, or check the reward's scale"
            )
        for group in self._adam.param_groups:
            group["lr"] = self.rate(progress)
        self._adam.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments and step counts, by the parameter's position."""
        return {str(i): self._adam.state[p] for i, p in enumerate(self.parameters) if p in self._adam.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._adam.state.clear()
        for index, moments in state.items():
            parameter = self.parameters[int(index)]
            self._adam.state[parameter] = {key: value.clone() for key, value in moments.items()}
