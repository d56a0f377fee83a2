"""Every completion of at most T tokens, as a tree, and their log-probabilities in one pass over it.

A node is a completion that has not ended; level t holds the ``A ** t`` nodes of length t, where A is how many tokens do
not end a completion. A *leaf* is a complete sequence: it ends in an end token, or has T tokens. Nodes and leaves are
numbered so that all book-keeping is reshaping: the children of node m are ``m * A .. m * A + A - 1``, and leaves go by
length, then by node, then by last token.

Letters: Q prompts, N leaves, M nodes of a level, V vocabulary, T longest completion, B completions, P prompt length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import PromptBatch
from bakeoff.errors import UserError

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel

MAX_SEQUENCES = 300_000
"""The most completions to enumerate, over all prompts: with more, enumeration is slow."""


@dataclass(frozen=True, eq=False)
class CompletionTree:
    """The tree's shape; it holds no probabilities."""

    vocab_size: int
    """Width of the logits, V."""
    continue_ids: tuple[int, ...]
    """Tokens after which a completion continues; A of them."""
    end_ids: tuple[int, ...]
    """Tokens that end a completion; E of them."""
    max_new_tokens: int
    """Length limit T."""
    pad_id: int
    """The filler after the end in :attr:`tokens_NT`."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")
        if not self.continue_ids and not self.end_ids:
            raise UserError("no token can be sampled: every one of the vocabulary is forbidden")
        if self.num_leaves > MAX_SEQUENCES:
            raise UserError(
                f"{len(self.continue_ids) + len(self.end_ids)} tokens and max_new_tokens {self.max_new_tokens} make "
                f"more than {MAX_SEQUENCES:,} completions, too many to enumerate: lower max_new_tokens, or do "
                "without the exact figures"
            )

    @classmethod
    def of(cls, language_model: LanguageModel, max_new_tokens: int) -> CompletionTree:
        """The tree of what a language model can sample.

        Raises:
            UserError: there are more than :data:`MAX_SEQUENCES` completions.
        """
        ends = set(language_model.eos_ids)
        allowed = [int(token) for token in language_model.allowed_V.nonzero().flatten()]
        return cls(
            vocab_size=language_model.vocab_size,
            continue_ids=tuple(token for token in allowed if token not in ends),
            end_ids=tuple(token for token in allowed if token in ends),
            max_new_tokens=max_new_tokens,
            pad_id=language_model.pad_id,
        )

    @property
    def num_leaves(self) -> int:
        """N, counted without building anything."""
        branching, ends = len(self.continue_ids), len(self.end_ids)
        ended: int = sum(branching**t * ends for t in range(self.max_new_tokens))
        uncut: int = branching**self.max_new_tokens
        return ended + uncut

    @cached_property
    def _last_ids(self) -> tuple[int, ...]:
        """The tokens that may stand last in a leaf of T tokens: all that can be sampled, in order of their ids."""
        return tuple(sorted(self.continue_ids + self.end_ids))

    def _leaf_ids(self, level: int) -> tuple[int, ...]:
        """The tokens that turn a node of this level into a leaf."""
        return self._last_ids if level == self.max_new_tokens - 1 else self.end_ids

    @cached_property
    def _offsets(self) -> list[int]:
        """The number of the first leaf below each level's nodes that is one token longer."""
        branching, offsets = len(self.continue_ids), [0]
        for level in range(self.max_new_tokens - 1):
            offsets.append(offsets[-1] + branching**level * len(self.end_ids))
        return offsets

    def node_tokens(self, level: int) -> Tensor:
        """The tokens of a level's nodes, int64 (M, level)."""
        if level == 0:
            return torch.zeros(1, 0, dtype=torch.int64)
        return torch.cartesian_prod(*[torch.tensor(self.continue_ids)] * level).reshape(-1, level)

    @cached_property
    def tokens_NT(self) -> Tensor:
        """The tokens of every leaf, int64 (N, T), pad id after the end."""
        levels = []
        for level in range(self.max_new_tokens):
            nodes, last = self.node_tokens(level), torch.tensor(self._leaf_ids(level), dtype=torch.int64)
            leaves = torch.full((len(nodes), len(last), self.max_new_tokens), self.pad_id)
            leaves[:, :, :level] = nodes.unsqueeze(1)
            leaves[:, :, level] = last
            levels.append(leaves.flatten(0, 1))
        return torch.cat(levels)

    @cached_property
    def mask_NT(self) -> Tensor:
        """True on each leaf's real tokens, end token included, bool (N, T)."""
        branching, T = len(self.continue_ids), self.max_new_tokens
        lengths_N = torch.cat(
            [torch.full((branching**level * len(self._leaf_ids(level)),), level + 1) for level in range(T)]
        )
        return torch.arange(T) < lengths_N.unsqueeze(1)

    def leaf_index(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The number of each completion, int64 (B,).

        Raises:
            UserError: a completion that is not a leaf, e.g. one that was cut before T tokens and has no end token.
        """
        A, T = len(self.continue_ids), self.max_new_tokens
        tokens, mask = tokens_BT.cpu(), mask_BT.cpu()
        lengths = mask.sum(1)
        rank_V = torch.full((self.vocab_size,), -1)
        rank_V[list(self.continue_ids)] = torch.arange(A)
        node, index = torch.zeros_like(lengths), torch.full_like(lengths, -1)
        for level in range(min(T, tokens.shape[1])):
            column = tokens[:, level]
            last = torch.full((self.vocab_size,), -1)
            last[list(self._leaf_ids(level))] = torch.arange(len(self._leaf_ids(level)))
            here = (lengths == level + 1) & (node >= 0) & (last[column] >= 0)
            leaf = self._offsets[level] + node * len(self._leaf_ids(level)) + last[column]
            index = torch.where(here, leaf, index)
            node = torch.where((node >= 0) & (rank_V[column] >= 0), node * A + rank_V[column], -1)
        if bool((index < 0).any()):
            row = int((index < 0).nonzero()[0])
            raise UserError(
                f"completion {row} has the token ids {tokens[row][mask[row]].tolist()}, which is no complete sequence "
                f"of at most {T} tokens: it must have {T} tokens or end with one of {list(self.end_ids)}"
            )
        return index

    def sequence_logprobs(
        self, language_model: LanguageModel, prompts: PromptBatch, *, gradients: bool = False
    ) -> Tensor:
        """Log-probability of every leaf after every prompt, float64 on the CPU, (Q, N).

        Level by level: each node is one token fed to the model on top of its parent's key-value cache, so the work is
        one token for each of ``Q * (1 + A + .. + A ** (T - 1))`` nodes. Gradients only on request.
        """
        with torch.set_grad_enabled(gradients):
            return self.from_conditionals(self._model_conditionals(language_model, prompts))

    def node_states(self, language_model: LanguageModel, prompts: PromptBatch) -> Iterator[Tensor]:
        """Hidden states at the nodes of each level in turn, (Q, M, D)."""
        A, device = len(self.continue_ids), language_model.device
        mask_BS = prompts.mask_BP.to(device)
        hidden_BD, cache = language_model.prefill(prompts.tokens_BP.to(device), mask_BS)
        position_B = mask_BS.sum(1)
        for level in range(self.max_new_tokens):
            if level > 0:
                # Rows go prompt by prompt and node by node, so the children of a row are A copies side by side.
                cache.batch_repeat_interleave(A)
                mask_BS = mask_BS.repeat_interleave(A, 0)
                mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(mask_BS), 1)], 1)
                position_B = position_B.repeat_interleave(A)
                token_B = torch.tensor(self.continue_ids, device=device).repeat(len(position_B) // A)
                hidden_BD = language_model.decode_step(token_B, mask_BS, position_B + level - 1, cache)
            yield hidden_BD.reshape(len(prompts), -1, hidden_BD.shape[-1])

    def _model_conditionals(self, language_model: LanguageModel, prompts: PromptBatch) -> Iterator[Tensor]:
        """Next-token log-probabilities at the nodes of each level in turn, (Q, M, V), float64 for the sums to come."""
        for hidden_QMD in self.node_states(language_model, prompts):
            yield language_model.head(hidden_QMD).log_softmax(-1).cpu().double()

    def fold(self, leaves_QN: Tensor, combine: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
        """Tables of every level from the leaves up, each (Q, M, V), the shortest nodes first.

        An entry whose token makes a leaf holds the leaf's value, one whose token does not end holds the child's entry of
        ``combine(level, table)`` (Q, M) for the child's level, and a forbidden token's holds -inf.
        """
        A, tables = len(self.continue_ids), list[Tensor]()
        for level in reversed(range(self.max_new_tokens)):
            ids, start = list(self._leaf_ids(level)), self._offsets[level]
            table = leaves_QN.new_full((len(leaves_QN), A**level, self.vocab_size), -torch.inf)
            table[..., ids] = leaves_QN[:, start : start + A**level * len(ids)].reshape(-1, A**level, len(ids))
            if tables:
                table[..., list(self.continue_ids)] = combine(level + 1, tables[0]).reshape(-1, A**level, A)
            tables.insert(0, table)
        return tables

    def conditionals(self, logprobs_QN: Tensor) -> list[Tensor]:
        """Next-token log-probabilities at every node that a distribution over leaves implies, (Q, M, V) a level."""
        branches = self.fold(logprobs_QN, lambda _, table: table.logsumexp(-1))
        return [table - table.logsumexp(-1, keepdim=True) for table in branches]

    def from_conditionals(self, conditionals: Iterable[Tensor]) -> Tensor:
        """Leaf log-probabilities (Q, N) from next-token log-probabilities (Q, M, V) of each level in turn."""
        node_QM: Tensor | None = None
        leaves = []
        for level, logprobs_QMV in enumerate(conditionals):
            joint_QMV = logprobs_QMV if node_QM is None else node_QM.unsqueeze(-1) + logprobs_QMV
            leaves.append(joint_QMV[..., list(self._leaf_ids(level))].flatten(1))
            node_QM = joint_QMV[..., list(self.continue_ids)].flatten(1)
        return torch.cat(leaves, 1)
