"""Answering with more than one language model: the reference's logits, changed token by token by what was learned.

Letters: N rows, D hidden width, V vocabulary, B completions, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bakeoff.algos.core.policy import Policy
from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.logprobs import compare, over_chunks, rows_in_a_chunk
from bakeoff.envs.language_model.sampling import inverse_cdf

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel
    from bakeoff.envs.tasks.exact.enumeration import Enumeration
    from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv

Logits = Callable[[Tensor, Tensor], Tensor]
"""Hidden states of the model that learned and of the reference, each (N, D), to logits (N, V)."""


class GuidedDecoder:
    """A :class:`~bakeoff.algos.core.algorithm.Contestant` whose distribution is made from two models' hidden states."""

    def __init__(self, policy: Policy, logits: Logits) -> None:
        """Args:
        policy: gives the two models.
        logits: what the next token is sampled from; tokens that must not be said have logits of -1e9 or less.
        """
        self._policy, self._logits = policy, logits

    def generate(self, envs: TextGenerationVectorEnv, generator: torch.Generator) -> Completions:
        """One completion for each prompt that ``envs`` now shows."""
        return self.sample(envs.prompt_batch, envs.max_new_tokens, generator)

    @torch.no_grad()
    def sample(self, prompts: PromptBatch, max_new_tokens: int, generator: torch.Generator) -> Completions:
        """One completion for each prompt; all uniforms are drawn first, row by row, as every sampler here does.

        Returns:
            Completions with the log-probabilities that their tokens had in the distribution they were drawn from.
        """
        model, rows = self._policy.model, len(prompts)
        uniforms_BT = torch.rand(rows, max_new_tokens, generator=generator).to(model.device)
        tokens_BT = torch.full((rows, max_new_tokens), model.pad_id, device=model.device)
        mask_BT = torch.zeros(rows, max_new_tokens, dtype=torch.bool, device=model.device)
        logprobs_BT = torch.zeros(rows, max_new_tokens, device=model.device)
        eos = torch.tensor(model.eos_ids, device=model.device)
        ours, theirs = _Reader(model, prompts), _Reader(self._policy.reference, prompts)
        alive_B = torch.ones(rows, dtype=torch.bool, device=model.device)
        for t in range(max_new_tokens):
            token_B, logprob_B = self._choose(ours.hidden_BD, theirs.hidden_BD, uniforms_BT[:, t])
            tokens_BT[:, t] = torch.where(alive_B, token_B, model.pad_id)
            mask_BT[:, t] = alive_B
            logprobs_BT[:, t] = torch.where(alive_B, logprob_B, 0.0)
            alive_B = alive_B & ~torch.isin(token_B, eos)
            if t + 1 == max_new_tokens or not bool(alive_B.any()):
                break
            ours.read(tokens_BT[:, t])  # rows that have ended read padding
            theirs.read(tokens_BT[:, t])
        return Completions(ours.prompts, tokens_BT, mask_BT, logprobs_BT)

    @torch.no_grad()
    def statistics(self, completions: Completions) -> Mapping[str, Tensor]:
        """The exact per-token KL to the reference in nats, summed along each completion, the mean entropy in nats per token,
        and the reference's negative log-likelihood in nats per token, each (B,)."""
        lengths_B = completions.lengths_B.to(self._policy.model.device).clamp_min(1)
        kl_B, entropy_B, logprob_B = self._sums(completions)
        return {"kl": kl_B, "entropy": entropy_B / lengths_B, "reference_nll": -logprob_B / lengths_B}

    @torch.no_grad()
    def sequence_logprobs(self, enumeration: Enumeration) -> Tensor:
        """Log-probability of every enumerable completion, shape (prompts, N)."""
        tree, prompts = enumeration.tree, enumeration.prompts

        def conditionals() -> Iterator[Tensor]:
            states = (tree.node_states(model, prompts) for model in (self._policy.model, self._policy.reference))
            for ours_QMD, theirs_QMD in zip(*states, strict=True):
                logits_NV = self._logits(ours_QMD.flatten(0, 1), theirs_QMD.flatten(0, 1))
                yield logits_NV.log_softmax(1).cpu().double().reshape(len(prompts), -1, tree.vocab_size)

        return tree.from_conditionals(conditionals())

    def _choose(self, ours_BD: Tensor, theirs_BD: Tensor, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of each row and its log-probability, each (B,), a chunk of rows at a time."""
        size = rows_in_a_chunk(ours_BD, self._policy.model.vocab_size)
        tokens, logprobs = [], []
        for ours, theirs, uniforms in zip(
            *(torch.split(x, size) for x in (ours_BD, theirs_BD, uniforms_B)), strict=True
        ):
            logprobs_NV = self._logits(ours, theirs).log_softmax(1)
            token = inverse_cdf(logprobs_NV.exp(), uniforms)
            tokens.append(token)
            logprobs.append(logprobs_NV.gather(1, token[:, None])[:, 0])
        return torch.cat(tokens), torch.cat(logprobs)

    def _sums(self, completions: Completions) -> tuple[Tensor, Tensor, Tensor]:
        """KL to the reference and entropy, exact at each token, and the reference's log-probability of the token, summed
        along each completion, each (B,)."""
        model, reference = self._policy.model, self._policy.reference
        mask = completions.mask_BT.to(model.device)
        ours, theirs = model.completion_hidden(completions), reference.completion_hidden(completions)
        used, tokens_N = mask[:, : ours.shape[1]], completions.tokens_BT.to(model.device)[mask]

        def figures(ours_ND: Tensor, theirs_ND: Tensor, tokens: Tensor) -> Tensor:
            logq = reference.head(theirs_ND).log_softmax(1)
            return compare(self._logits(ours_ND, theirs_ND).log_softmax(1), logq, tokens)

        found_N3 = over_chunks(figures, (ours[used], theirs[used], tokens_N), model.vocab_size)
        zeros = torch.zeros(mask.shape, device=mask.device)
        kl_B, entropy_B, logprob_B = (zeros.masked_scatter(mask, column).sum(1) for column in found_N3.unbind(1))
        return kl_B, entropy_B, logprob_B


class _Reader:
    """A model that reads a batch token by token, with a key-value cache."""

    def __init__(self, model: LanguageModel, prompts: PromptBatch) -> None:
        self.prompts = PromptBatch(
            *(x.to(model.device) for x in (prompts.tokens_BP, prompts.mask_BP, prompts.indices_B))
        )
        self._model, self._mask_BS = model, self.prompts.mask_BP
        self._position_B = self._mask_BS.sum(1)
        self.hidden_BD, self._cache = model.prefill(self.prompts.tokens_BP, self._mask_BS)

    def read(self, token_B: Tensor) -> None:
        """One more token in each row."""
        self._mask_BS = torch.cat([self._mask_BS, self._mask_BS.new_ones(len(token_B), 1)], 1)
        self.hidden_BD = self._model.decode_step(token_B, self._mask_BS, self._position_B, self._cache)
        self._position_B = self._position_B + 1
