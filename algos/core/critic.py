"""The value function V(state): the reward still to come from here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bakeoff.algos.core.policy import Policy, count_trained_tokens
from bakeoff.algos.core.trainable_weights import own_top
from bakeoff.envs.language_model.completions import Completions

CriticKind = Literal["auto", "separate", "shared", "mlp"]


class Critic:
    """A head on hidden states; its last layer starts at zero, so the first values are 0 and the first advantages the rewards.

    - `shared`: a linear head on the policy's hidden states; its gradient moves the policy's weights too.
    - `mlp`: a small network on the policy's hidden states, whose gradient stays out of the policy.
    - `separate`: a linear head on a network of its own that starts as the reference's: its whole trunk, or only the blocks
      above the cut where the policy trains no more than those.
    """

    def __init__(self, policy: Policy, kind: CriticKind) -> None:
        """Args:
        policy: whose states are valued.
        kind: one of the above; `auto` is `separate` where that needs no second whole network, or where the policy is one
            itself (`full`), and `shared` under `lora`.
        """
        trainable = policy.config.trainable
        if kind == "auto":
            kind = "shared" if trainable == "lora" else "separate"
        self.kind = kind
        width, device = policy.model.width, policy.model.device
        self.head = _head(width, hidden=kind == "mlp").to(device)
        self.network = policy.model
        if kind == "separate":
            if trainable == "top_layers":
                self.network = own_top(policy.reference, policy.config.top_layers)
            else:
                self.network = policy.reference.copy()
                self.network.module.set_output_embeddings(nn.Identity())  # no second copy of the largest matrix
                self.network.trunk.requires_grad_(True)
            if policy.config.gradient_checkpointing:
                self.network.checkpoint_gradients()
            count_trained_tokens(self.network, policy.meter)

    @property
    def reads_policy(self) -> bool:
        """True if the hidden states it values are the policy's."""
        return self.kind != "separate"

    def values(self, completions: Completions, policy_hidden_BTD: Tensor | None = None) -> Tensor:
        """The value before each completion token is chosen, shape (B, T), 0 where the mask is False.

        Args:
            completions: the states.
            policy_hidden_BTD: the policy's hidden states of these completions, if they are at hand; a critic that reads them
                takes these instead of a forward pass of its own.
        """
        mask = completions.mask_BT.to(self.network.device)
        hidden = policy_hidden_BTD if self.reads_policy else None
        if hidden is None:
            hidden = self.network.completion_hidden(completions)
        if self.kind == "mlp":
            hidden = hidden.detach()
        values = self.head(hidden.float())[..., 0]
        padded = torch.nn.functional.pad(values, (0, mask.shape[1] - values.shape[1]))
        return padded * mask

    def parameters(self) -> Iterator[nn.Parameter]:
        """The critic's own weights, the policy's not among them."""
        yield from self.head.parameters()
        if not self.reads_policy:
            yield from (p for p in self.network.trunk.parameters() if p.requires_grad)

    def state_dict(self) -> dict[str, Any]:
        """The critic's own weights, by position."""
        return {str(i): p.detach() for i, p in enumerate(self.parameters())}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for i, parameter in enumerate(self.parameters()):
            parameter.copy_(state[str(i)])


def _head(width: int, *, hidden: bool) -> nn.Module:
    """Hidden states to one number, in float32 whatever the model computes in; it starts the same in every run."""
    linear: Any = partial(nn.utils.skip_init, nn.Linear)
    last: nn.Linear = linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if not hidden:
        return last
    first = linear(width, width)
    with torch.no_grad():
        nn.init.orthogonal_(first.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(first.bias)
    return nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), first, nn.Tanh(), last)
