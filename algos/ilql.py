"""Implicit language Q-learning: offline, from completions with rewards (Snell et al. 2023, after Kostrikov et al. 2022).

Two Q heads on the model's hidden states learn r + V(s') at the logged tokens. V learns a high expectile of the smaller target Q:
the value of good tokens among those that the data hold, so no value of an untried token is ever used. A conservative
term keeps Q low on untried tokens. Answers follow reference logits + decoding_beta * (Q - V); the factor can be swept without
training anew.

The language model itself learns to imitate the logged tokens, each weighted by exp(decoding_beta * advantage) (the policy
extraction of IQL): that is what is saved, an ordinary causal language model near the guided reference.

Departures from the paper: see docs/q-learning.md. Letters: N rows, D hidden width, V vocabulary, 2 the Q heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bakeoff.algos.core.algorithm import Algorithm, Contestant, DataSource
from bakeoff.algos.core.guided_decoding import GuidedDecoder
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.rollout import Rollout
from bakeoff.algos.core.target_network import soft_update
from bakeoff.algos.losses.advantages import masked_mean
from bakeoff.algos.losses.value import (
    conservative_term,
    expectile_loss,
    next_state_values,
    soft_backup,
    terminal_rewards,
)
from bakeoff.algos.preference_data.logged import LoggedCompletions, OfflineConfig
from bakeoff.envs.language_model.logprobs import over_chunks
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv

HEADS = 2
LARGEST_WEIGHT = 20.0
"""No token is imitated with more than this weight."""


class ILQLConfig(OfflineConfig):
    """Settings of implicit language Q-learning."""

    expectile: float = Field(default=0.9, gt=0, lt=1)
    """Which expectile of Q among the data's tokens V is: .5 is their mean, near 1 their maximum."""
    cql_coef: float = Field(default=0.01, ge=0)
    """Weight of the conservative term."""
    tau: float = Field(default=0.2, gt=0, le=1)
    """How far the target Q heads move towards the Q heads after each step."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token; below 1 changes the objective."""
    extraction_coef: float = Field(default=0.1, ge=0)
    """Weight of the language model's own loss: likelihood of logged tokens, weighted by exp(advantage)."""


class ILQL(Algorithm):
    """Implicit language Q-learning."""

    Config = ILQLConfig
    data_source: ClassVar[DataSource] = DataSource.REPLAY
    stays_without_signal: ClassVar[bool] = False
    config: ILQLConfig

    def __init__(self, config: ILQLConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        self.data = LoggedCompletions(config, policy, envs, discounted=config.gamma < 1)
        self.heads, self.target = QHeads(policy.reference, rng), QHeads(policy.reference, rng)
        self.target.load_state_dict(self.heads.state_dict())
        self.optimizer = Optimizer(
            [*policy.parameters(), *self.heads.parameters()],
            config,
            policy.model.width,
            planned_updates=self.data.planned_updates,
        )

    @property
    def decoding_beta(self) -> float:
        """Nats per unit of reward by which answers follow Q - V."""
        if self.config.decoding_beta is not None:
            return self.config.decoding_beta
        return 1 / self.kl_coef if self.kl_coef > 0 else 1.0

    def update(self) -> Mapping[str, float]:
        """Get data, and learn from all there are."""
        self.optimizer.start_update(self.data.progress)
        metrics = self.data.grow(self.rng)
        steps = [self.step(self.data.draw(self.rng)) for _ in range(self.config.gradient_steps)]
        return {**metrics, **mean_metrics(steps)}

    def step(self, batch: Rollout) -> dict[str, float]:
        """One step; all losses are means over tokens. The target heads follow."""
        for part, share in self.optimizer.micro_batches(torch.arange(len(batch)), batch.completions.lengths_B.cpu()):
            loss, figures = self.loss(batch.select(part))
            (share * loss).backward()  # type: ignore[no-untyped-call]
            self.optimizer.log(share, figures)
        logs = self.optimizer.step()
        soft_update(self.target.parameters(), self.heads.parameters(), self.config.tau)
        return logs

    def loss(self, part: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared TD error of both heads + expectile loss of V + conservative term + the language model's own loss."""
        completions, mask_BT = part.completions, part.completions.mask_BT
        logprobs_BT, _, hidden_BTD = self.policy.model.token_outputs(completions, entropy_gradient=False)
        missing = mask_BT.shape[1] - hidden_BTD.shape[1]
        hidden_BTD = torch.nn.functional.pad(hidden_BTD.float(), (0, 0, 0, missing))
        chosen_BT2 = self.heads.chosen(hidden_BTD, completions.tokens_BT)
        values_BT = self.heads.values(hidden_BTD)
        with torch.no_grad():
            ended_BT = next_state_values(torch.ones_like(values_BT), mask_BT) == 0
            next_BT = self.config.gamma * next_state_values(values_BT, mask_BT)
            targets_BT = soft_backup(terminal_rewards(part.scores_B, mask_BT), next_BT, ended_BT)
            judged_BT = self.target.chosen(hidden_BTD, completions.tokens_BT).amin(-1)
            advantages_BT = judged_BT - values_BT
            largest = math.log(LARGEST_WEIGHT)
            imitation_BT = (self.decoding_beta * advantages_BT).clamp(max=largest).exp()
        td_loss = 0.5 * masked_mean(((chosen_BT2 - targets_BT[..., None]) ** 2).sum(-1), mask_BT)
        value_loss = masked_mean(expectile_loss(judged_BT - values_BT, self.config.expectile), mask_BT)
        conservative = td_loss.new_zeros(())
        if self.config.cql_coef > 0:
            normalizer_N2 = self.heads.logsumexp(hidden_BTD[mask_BT])
            conservative = conservative_term(normalizer_N2, chosen_BT2[mask_BT]).sum(-1).mean()
        nll = -masked_mean(imitation_BT * logprobs_BT, mask_BT)
        loss = td_loss + value_loss + self.config.cql_coef * conservative + self.config.extraction_coef * nll
        return loss, {
            "td_loss": td_loss,
            "value_loss": value_loss,
            "conservative": conservative,
            "extraction_loss": nll,
            "value": masked_mean(values_BT, mask_BT) + (self.data.origin or 0.0),
            "advantage": masked_mean(advantages_BT, mask_BT),
        }

    @property
    def queries_needed(self) -> int:
        """One completion, where the reference makes the data."""
        return self.data.queries_needed

    @property
    def finished(self) -> bool:
        """After the last update with given data."""
        return self.data.finished

    def contestant(self) -> Contestant:
        """The reference, guided by Q - V."""
        return self.decoded(self.decoding_beta)

    def decoded(self, decoding_beta: float) -> Contestant:
        """Answers by reference logits + ``decoding_beta`` * (Q - V), without training anew."""

        def logits(ours_ND: Tensor, theirs_ND: Tensor) -> Tensor:
            # V is the same for all tokens of a state: it cancels in the softmax.
            guide_NV = self.target.action_values(ours_ND.float()).amin(-2)
            return self.policy.reference.head(theirs_ND) + decoding_beta * guide_NV

        return GuidedDecoder(self.policy, logits)


class QHeads(nn.Module):
    """Two Q heads and a V head on a language model's hidden states, in float32; small whatever the vocabulary.

    Q_i(s, a) = v_i(h) + e_a . q_i(h): e_a is the reference's own output embedding of token a, frozen and scaled to unit length on
    average, so tokens of similar meaning have similar values, untried tokens have the state's own level, and a head has about 3 D^2
    weights instead of V x D. The last layers start at zero: Q = V = 0, and nothing is guided yet. The first layers differ, or two
    heads with the same start and the same data would stay the same.
    """

    def __init__(self, reference: LanguageModel, generator: torch.Generator) -> None:
        """Args:
        reference: gives the token embeddings.
        generator: draws the first layers.
        """
        super().__init__()
        # Held in a tuple: the embedding is the reference's, no weight of this module.
        self._embedding = (reference.module.get_output_embeddings().weight,)
        rows = self._embedding[0].detach().float()
        self._scale = float(rows.norm(dim=1).mean().clamp_min(1e-6)) ** -1
        width = reference.width
        self.q = nn.ModuleList(_perceptron(width, width + 1, generator) for _ in range(HEADS))
        self.v = _perceptron(width, 1, generator)
        self.to(reference.device)

    def values(self, hidden: Tensor) -> Tensor:
        """V of each state, shape (..) of hidden states (.., D)."""
        values: Tensor = self.v(hidden)[..., 0]
        return values

    def chosen(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        """Q of one token per state, shape (B, T, 2): no vocabulary's width of anything."""
        rows_BTD = self._embedding[0].detach()[tokens_BT].float() * self._scale
        outputs = [head(hidden_BTD) for head in self.q]
        return torch.stack([o[..., 0] + (o[..., 1:] * rows_BTD).sum(-1) for o in outputs], -1)

    def action_values(self, hidden_ND: Tensor) -> Tensor:
        """Q of every token, shape (N, 2, V); for a chunk of rows."""
        outputs_N2D = torch.stack([head(hidden_ND) for head in self.q], -2)
        embedding_DV = self._embedding[0].detach().float().T * self._scale
        values: Tensor = outputs_N2D[..., :1] + outputs_N2D[..., 1:] @ embedding_DV
        return values

    def logsumexp(self, hidden_ND: Tensor) -> Tensor:
        """log sum_a exp Q(s, a), shape (N, 2), a chunk of the rows at a time."""
        vocabulary = HEADS * len(self._embedding[0])
        return over_chunks(lambda hidden: self.action_values(hidden).logsumexp(-1), (hidden_ND,), vocabulary)


def _perceptron(width: int, outputs: int, generator: torch.Generator) -> nn.Module:
    first, last = nn.Linear(width, 2 * width), nn.Linear(2 * width, outputs)
    with torch.no_grad():
        first.weight.copy_(torch.randn(first.weight.shape, generator=generator) / width**0.5)
        nn.init.zeros_(first.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), first, nn.Tanh(), last)
