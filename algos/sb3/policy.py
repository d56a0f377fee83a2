"""A policy for Stable-Baselines3's actor-critic agents that starts as the reference and knows which tokens it chooses among.

A policy class of one's own is Stable-Baselines3's way of saying what an agent's networks look like; the agent is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import Tensor, nn

from bakeoff.envs.language_model.model import LanguageModel


class TiltPolicy(ActorCriticPolicy):
    """Logits are the reference's log-probabilities plus <f(state), vector of the token>, where f is 0 at first.

    An action is a rank, and the token of a rank is another in every state; a network that only sees the state can hardly
    tell which. Here what is learned about a token holds wherever it turns up. Observations are those of ``show_choices``.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Callable[[float], float],
        *,
        token_vectors_VD: Tensor,
        **settings: Any,
    ) -> None:
        """Args:
        observation_space: hidden state, k log-probabilities, k token ids.
        action_space: k actions.
        lr_schedule: the learning rate by what remains.
        token_vectors_VD: a vector for each token; they stay as they are.
        settings: those of Stable-Baselines3's policy.
        """
        super().__init__(observation_space, action_space, lr_schedule, **settings)
        self.action_net = _Tilt(self.mlp_extractor.networks.latent_dim_pi, int(action_space.n), token_vectors_VD)
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _build_mlp_extractor(self) -> None:
        shown = 2 * int(self.action_space.n)  # type: ignore[attr-defined]
        networks = MlpExtractor(self.features_dim - shown, self.net_arch, self.activation_fn, self.device)
        self.mlp_extractor: Any = _BesideChoices(networks, shown)


class _BesideChoices(nn.Module):
    """The usual networks on the hidden state; what the observation says of the choices is handed past the actor's."""

    def __init__(self, networks: MlpExtractor, shown: int) -> None:
        super().__init__()
        self.networks, self.shown = networks, shown
        self.latent_dim_pi, self.latent_dim_vf = networks.latent_dim_pi + shown, networks.latent_dim_vf

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        hidden, choices = features[:, : -self.shown], features[:, -self.shown :]
        return torch.cat([self.networks.forward_actor(hidden), choices], 1)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.networks.forward_critic(features[:, : -self.shown])


class _Tilt(nn.Module):
    """From what the actor's network made, the choices' log-probabilities and their ids to logits."""

    token_vectors_VD: Tensor

    def __init__(self, width: int, k: int, token_vectors_VD: Tensor) -> None:
        super().__init__()
        self.k, self.linear = k, nn.Linear(width, token_vectors_VD.shape[1])
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("token_vectors_VD", token_vectors_VD, persistent=False)

    def forward(self, latent: Tensor) -> Tensor:
        made, logprobs_NK, ids_NK = torch.split(latent, [latent.shape[1] - 2 * self.k, self.k, self.k], 1)
        # Over all tokens and then the k: a product of matrices is far cheaper than k vectors for each state.
        tilt_NV = self.linear(made) @ self.token_vectors_VD.T
        logits_NK: Tensor = logprobs_NK + tilt_NV.gather(1, ids_NK.long())
        return logits_NK


@torch.no_grad()
def token_vectors(model: LanguageModel) -> Tensor:
    """The rows of the model's head, on the CPU, shifted and scaled to mean 0 and length about 1, float32 (V, D)."""
    rows_VD: Tensor = model.module.get_output_embeddings().weight.detach().float().cpu()
    centered_VD = rows_VD - rows_VD.mean(0)
    return centered_VD / centered_VD.square().sum(1).mean().sqrt().clamp_min(1e-12)
