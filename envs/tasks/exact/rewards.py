"""The two rewards of the exact task, as tables over all completions and as a callable that looks them up.

*Dense*: every token and every pair of adjacent tokens adds something, so any completion says something about others.
*Sparse*: a bonus for three words in the right order, gaps allowed, which the reference hits about once in a hundred
samples, on top of a faint dense reward. One reward alone could reverse the order of algorithms.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bakeoff.envs.language_model.completions import PromptBatch
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.tasks.exact.tree import CompletionTree
from bakeoff.errors import UserError
from bakeoff.seeding import torch_generator

HIT_PROBABILITY = (0.004, 0.02)
"""How often the reference may hit the sparse reward's words: too rare to be found below, not rare above."""


def dense_rewards(
    tree: CompletionTree, reference_logprobs_QN: Tensor, prompts: PromptBatch, generator: torch.Generator
) -> Tensor:
    """Random unigram and bigram scores, standardized, float64 (Q, N).

    For each prompt of its own, u(token) and w(token before, token) are standard normal; a completion's score is the sum
    over its tokens, the end token included and the prompt's last token standing before the first. Mean 0 and standard
    deviation 1 under the reference.
    """
    Q, V = len(prompts), tree.vocab_size
    unigram_QV = torch.randn(Q, V, generator=generator, dtype=torch.float64)
    bigram_QVV = torch.randn(Q, V, V, generator=generator, dtype=torch.float64)
    tokens_NT, mask_NT = tree.tokens_NT, tree.mask_NT
    tables = []
    for row in range(Q):
        first_N1 = prompts.tokens_BP[row, -1].expand(len(tokens_NT), 1)
        before_NT = torch.cat([first_N1, tokens_NT[:, :-1]], 1)
        scores_NT = unigram_QV[row][tokens_NT] + bigram_QVV[row][before_NT, tokens_NT]
        tables.append((scores_NT * mask_NT).sum(1))
    return standardize(torch.stack(tables), reference_logprobs_QN)


def standardize(values_QN: Tensor, reference_logprobs_QN: Tensor) -> Tensor:
    """Shifted and scaled to mean 0 and standard deviation 1 under the reference, prompt by prompt."""
    probs_QN = reference_logprobs_QN.exp()
    centered_QN = values_QN - (probs_QN * values_QN).sum(1, keepdim=True)
    return centered_QN / (probs_QN * centered_QN.square()).sum(1, keepdim=True).sqrt()


def contains_in_order(tree: CompletionTree, words: Sequence[int]) -> Tensor:
    """True where a completion has these tokens in this order, other tokens between them allowed, bool (N,)."""
    wanted = torch.tensor([*words, -1])  # -1 stands for "all found" and equals no token
    found_N = torch.zeros(len(tree.tokens_NT), dtype=torch.int64)
    for token_N, real_N in zip(tree.tokens_NT.T, tree.mask_NT.T, strict=True):
        found_N = found_N + (real_N & (token_N == wanted[found_N])).long()
    return found_N == len(words)


def choose_words(
    tree: CompletionTree, reference_logprobs_QN: Tensor, generator: torch.Generator
) -> list[tuple[int, int, int]]:
    """Three different tokens for each prompt, drawn until their hit probability lies in :data:`HIT_PROBABILITY`.

    Raises:
        UserError: no three tokens of some prompt have such a probability.
    """
    low, high = HIT_PROBABILITY
    triples = list(itertools.permutations(tree.continue_ids, 3))
    chosen = []
    for row, logprobs_N in enumerate(reference_logprobs_QN):
        probs_N = logprobs_N.exp()
        for index in torch.randperm(len(triples), generator=generator).tolist():
            if low <= float(probs_N[contains_in_order(tree, triples[index])].sum()) <= high:
                chosen.append(triples[index])
                break
        else:
            raise UserError(f"no three words are hit with probability {low} to {high} after prompt {row}")
    return chosen


def sparse_rewards(
    tree: CompletionTree,
    reference_logprobs_QN: Tensor,
    prompts: PromptBatch,
    generator: torch.Generator,
    *,
    bonus: float,
    dense_weight: float,
) -> Tensor:
    """``bonus`` for a prompt's three words in order, plus ``dense_weight`` times a dense reward, float64 (Q, N)."""
    words = choose_words(tree, reference_logprobs_QN, generator)
    hits_QN = torch.stack([contains_in_order(tree, triple) for triple in words])
    return bonus * hits_QN.double() + dense_weight * dense_rewards(tree, reference_logprobs_QN, prompts, generator)


def exact_seed(reward_seed: int, name: str) -> torch.Generator:
    """The generator behind a reward: its seed and its name decide it."""
    return torch_generator(reward_seed, "exact", name)


class TableReward:
    """Looks rewards up in a table; the reward callable of an enumerable task."""

    def __init__(
        self, language_model: LanguageModel, tree: CompletionTree, prompts: Sequence[str], rewards_QN: Tensor
    ) -> None:
        """Keep the table.

        Args:
            language_model: its tokenizer encodes a completion given as text alone.
            tree: the completions, N of them.
            prompts: the texts of the prompts, Q of them.
            rewards_QN: the table.
        """
        self.language_model, self.tree, self.rewards_QN = language_model, tree, rewards_QN
        self.rows = {prompt: row for row, prompt in enumerate(prompts)}

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        """One reward per completion.

        Args:
            prompts: texts of the prompts, each one of the table's.
            completions: texts; read only where ``completion_ids`` is None. A text shorter than the length limit is
                taken to have ended by itself.
            completion_ids: the completions' tokens, end token included, padding not.
            columns: not read.

        Raises:
            UserError: a prompt that is not in the table, or a completion that is no complete sequence.
        """
        unknown = next((prompt for prompt in prompts if prompt not in self.rows), None)
        if unknown is not None:
            known = ", ".join(f'"{prompt}"' for prompt in self.rows)
            raise UserError(f'this reward is a table over the prompts {known}; it has none for "{unknown}"')
        ids = [self._read(text) for text in completions] if completion_ids is None else completion_ids
        T = max(self.tree.max_new_tokens, max(map(len, ids), default=0))
        tokens_BT = torch.full((len(ids), T), self.tree.pad_id)
        mask_BT = torch.zeros(len(ids), T, dtype=torch.bool)
        for row, tokens in enumerate(ids):
            tokens_BT[row, : len(tokens)] = torch.as_tensor(tokens, dtype=torch.int64)
            mask_BT[row, : len(tokens)] = True
        leaf_B = self.tree.leaf_index(tokens_BT, mask_BT)
        row_B = torch.tensor([self.rows[prompt] for prompt in prompts], dtype=torch.int64)
        rewards: list[float] = self.rewards_QN[row_B, leaf_B].tolist()
        return rewards

    def _read(self, text: str) -> list[int]:
        ids = self.language_model.encode([text])[0] if text else []
        ended = len(ids) >= self.tree.max_new_tokens or not self.tree.end_ids
        return ids if ended else [*ids, self.tree.end_ids[0]]
