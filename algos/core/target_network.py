"""Slowly moving copies: what values are bootstrapped from (Polyak averaging; Lillicrap et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bakeoff.algos.core.policy import Policy


@torch.no_grad()
def soft_update(target: Iterable[Tensor], source: Iterable[Tensor], rate: float) -> None:
    """Move each target tensor towards its source by this share of the way."""
    for slow, fast in zip(target, source, strict=True):
        slow.lerp_(fast.to(slow.dtype), rate)


class TargetModel:
    """A copy of the policy's model that follows it; weights that do not move are shared with it."""

    def __init__(self, policy: Policy) -> None:
        moving = {name for name, p in policy.model.module.named_parameters() if p.requires_grad}
        self._policy, self._names = policy, moving
        self.model = policy.model.clone_sharing(lambda name: name in moving)

    def soft_update(self, rate: float) -> None:
        """Move towards the policy by this share of the way."""
        soft_update(self._own().values(), self._policy.parameters(), rate)

    def state_dict(self) -> dict[str, Any]:
        """The weights that move, by name."""
        return {name: p.detach() for name, p in self._own().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, parameter in self._own().items():
            parameter.copy_(state[name])

    def _own(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.module.named_parameters() if name in self._names}
