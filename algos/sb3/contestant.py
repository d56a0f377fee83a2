"""How an agent with k actions answers prompts, and how far it is from the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.language_model.sampling import inverse_cdf
from bakeoff.envs.text_generation.top_tokens import likeliest, observed
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv

if TYPE_CHECKING:
    from bakeoff.envs.tasks.exact.enumeration import Enumeration

ActionLogProbs = Callable[[Tensor], Tensor]
"""Observations (N, S) to the log-probability of every action, (N, k)."""


class TopTokensContestant:
    """The reference's k likeliest tokens, chosen among by an agent; a :class:`~bakeoff.algos.core.algorithm.Contestant`.

    As a distribution over the whole vocabulary it gives all other tokens probability 0, so its KL to the reference is a
    sum over k tokens, exact at each position.
    """

    def __init__(
        self,
        reference: LanguageModel,
        allowed_V: Tensor,
        k: int,
        action_logprobs: ActionLogProbs,
        *,
        show_choices: bool = False,
    ) -> None:
        """Args:
        reference: the language model whose hidden states the agent sees.
        allowed_V: tokens that may be generated.
        k: how many there are to choose from.
        action_logprobs: the agent.
        show_choices: whether its observations end in the tokens' log-probabilities and ids.
        """
        self._model, self._allowed_V, self._k = reference, allowed_V, k
        self._action_logprobs, self._show_choices = action_logprobs, show_choices

    @torch.no_grad()
    def generate(self, envs: TextGenerationVectorEnv, generator: torch.Generator) -> Completions:
        """One completion for each prompt that ``envs`` now shows, sampled with one uniform number per token."""
        model, prompts, limit = self._model, envs.prompt_batch, envs.max_new_tokens
        rows, device = len(prompts), model.device
        uniforms_BT = torch.rand(rows, limit, generator=generator).to(device)
        tokens_BT = torch.full((rows, limit), model.pad_id, device=device)
        mask_BT = torch.zeros(rows, limit, dtype=torch.bool, device=device)
        logprobs_BT = torch.zeros(rows, limit, device=device)
        ends = torch.tensor(model.eos_ids, device=device)
        alive_B = torch.ones(rows, dtype=torch.bool, device=device)
        seen_BS = torch.cat([prompts.mask_BP, torch.ones_like(mask_BT)], 1).long()
        length = prompts.mask_BP.shape[1]
        hidden_BD, cache = model.prefill(prompts.tokens_BP, prompts.mask_BP)
        position_B = seen_BS[:, :length].sum(1)
        for t in range(limit):
            choices_BK, _, chances_BK = self._choices(hidden_BD)
            action_B1 = inverse_cdf(chances_BK.exp(), uniforms_BT[:, t])[:, None]
            token_B = choices_BK.gather(1, action_B1)[:, 0]
            tokens_BT[:, t] = torch.where(alive_B, token_B, model.pad_id)
            mask_BT[:, t] = alive_B
            logprobs_BT[:, t] = torch.where(alive_B, chances_BK.gather(1, action_B1)[:, 0], 0.0)
            alive_B = alive_B & ~torch.isin(token_B, ends)
            if t + 1 == limit or not bool(alive_B.any()):
                break
            hidden_BD = model.decode_step(token_B, seen_BS[:, : length + t + 1], position_B + t, cache)
        return Completions(prompts, tokens_BT, mask_BT, logprobs_BT)

    @torch.no_grad()
    def statistics(self, completions: Completions) -> Mapping[str, Tensor]:
        """The exact KL to the reference at each position, summed along the agent's own completions, nats; the mean entropy
        in nats per token, the reference's negative log-likelihood in nats per token, and how much of the reference's
        probability the k tokens hold at those positions, each (B,)."""
        _, reference_NK, ours_NK = self._choices(self._hidden(completions))
        lengths_B = completions.lengths_B.to(self._model.device).clamp_min(1)
        likelihood_BT = self._model.token_logprobs(completions)
        return {
            "kl": self._summed(completions, _times(ours_NK, ours_NK - reference_NK).sum(1)),
            "entropy": self._summed(completions, -_times(ours_NK, ours_NK).sum(1)) / lengths_B,
            "reference_nll": -likelihood_BT.sum(1) / lengths_B,
            "reference_mass": self._summed(completions, reference_NK.exp().sum(1)) / lengths_B,
        }

    @torch.no_grad()
    def sequence_logprobs(self, enumeration: Enumeration) -> Tensor:
        """Log-probability of every enumerable completion, (prompts, N); -inf for those with a token out of the k."""
        tree, prompts = enumeration.tree, enumeration.prompts

        def conditionals() -> Iterator[Tensor]:
            for hidden_QMD in tree.node_states(self._model, prompts):
                tokens_NK, _, ours_NK = self._choices(hidden_QMD.flatten(0, 1))
                full_NV = torch.full((len(tokens_NK), tree.vocab_size), -torch.inf, dtype=torch.float64)
                full_NV.scatter_(1, tokens_NK.cpu(), ours_NK.cpu().double())
                yield full_NV.reshape(*hidden_QMD.shape[:2], -1)

        return tree.from_conditionals(conditionals())

    def _choices(self, hidden_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The k tokens, the reference's log-probabilities and the agent's, each (N, k)."""
        tokens_NK, reference_NK = likeliest(self._model, hidden_ND, self._allowed_V, self._k)
        states_NS = observed(hidden_ND.float(), tokens_NK, reference_NK, self._show_choices)
        return tokens_NK, reference_NK, self._action_logprobs(states_NS).to(hidden_ND.device)

    def _hidden(self, completions: Completions) -> Tensor:
        """The states that the completions' real tokens were chosen in, row by row (N, D)."""
        hidden_BTD = self._model.completion_hidden(completions)
        return hidden_BTD[completions.mask_BT.to(self._model.device)[:, : hidden_BTD.shape[1]]]

    def _summed(self, completions: Completions, values_N: Tensor) -> Tensor:
        """One value for each real token to sums over the completions, (B,)."""
        mask_BT = completions.mask_BT.to(values_N.device)
        return torch.zeros(mask_BT.shape, device=values_N.device).masked_scatter(mask_BT, values_N.float()).sum(1)


def _times(logprobs: Tensor, values: Tensor) -> Tensor:
    """Probability times value; 0 where the probability is 0, be the value infinite."""
    return torch.where(logprobs > -torch.inf, logprobs.exp() * values, 0.0)
