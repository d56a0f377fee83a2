"""The value function V(state): the reward still to come from here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bakeoff.algos.policy import Policy, count_trained_tokens
from bakeoff.envs.completions import Completions

CriticKind = Literal["separate", "shared"]


class Critic:
    """A linear head on hidden states: the policy's own (`shared`) or those of a second network (`separate`).

    The head starts at zero, so the first values are 0 and the first advantages are the rewards themselves.
    """

    def __init__(self, policy: Policy, kind: CriticKind) -> None:
        """Args:
        policy: whose states are valued; a separate network starts as a copy of the reference's trunk.
        kind: `shared` costs no second network, but its gradient moves the policy's trunk.
        """
        self.head = nn.Linear(policy.model.width, 1, device=policy.model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.network = policy.model if kind == "shared" else policy.reference.copy()
        self._separate = kind == "separate"
        if self._separate:
            self.network.module.set_output_embeddings(nn.Identity())  # no second copy of the largest matrix
            self.network.trunk.requires_grad_(True)
            count_trained_tokens(self.network.trunk, policy.meter)

    def values(self, completions: Completions, policy_hidden_BTD: Tensor | None = None) -> Tensor:
        """The value before each completion token is chosen, shape (B, T), 0 where the mask is False.

        Args:
            completions: the states.
            policy_hidden_BTD: the policy's hidden states of these completions, if they are at hand; a shared critic reads
                them in place of a forward pass of its own.
        """
        mask = completions.mask_BT.to(self.head.weight.device)
        hidden = None if self._separate else policy_hidden_BTD
        if hidden is None:
            hidden = self.network.completion_hidden(completions)
        values = self.head(hidden.to(self.head.weight.dtype))[..., 0]
        padded = torch.nn.functional.pad(values, (0, mask.shape[1] - values.shape[1]))
        return padded * mask

    def parameters(self) -> Iterator[nn.Parameter]:
        """The critic's own weights, the policy's not among them."""
        yield from self.head.parameters()
        if self._separate:
            yield from self.network.trunk.parameters()

    def state_dict(self) -> dict[str, Any]:
        """The critic's own weights, by position."""
        return {str(i): p.detach() for i, p in enumerate(self.parameters())}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        for i, parameter in enumerate(self.parameters()):
            parameter.copy_(state[str(i)])
