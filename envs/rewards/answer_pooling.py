"""Pooling: the positions of a text at which a reward model reads an answer's score.

``last``: at the last token, as transformers' sequence classifiers do. ``answer_mean``: at every token of the answer, averaged;
a frozen causal model was never trained to sum up a text in its last token, and its mean says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GenericForSequenceClassification

from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier, length_sorted_batches
from bakeoff.errors import ConfigError, ModelError

Pooling = Literal["last", "answer_mean"]
POOLINGS: tuple[Pooling, ...] = ("last", "answer_mean")


@dataclass(frozen=True)
class AnswerIds:
    """A prompt with its answer as tokens."""

    ids: list[int]
    """All of it."""
    start: int
    """The first position of the answer."""

    def last(self, pad_id: int) -> int:
        """The place that transformers reads: the last token that is not padding's."""
        return next((place for place in range(len(self.ids) - 1, 0, -1) if self.ids[place] != pad_id), 0)

    def weights(self, pooling: Pooling, pad_id: int) -> Tensor:
        """The weight of each token, shape (S,), summing to 1."""
        weights_S = torch.zeros(len(self.ids))
        if pooling == "last":
            weights_S[self.last(pad_id)] = 1
        else:
            weights_S[self.start :] = 1 / (len(self.ids) - self.start)
        return weights_S


def answer_start(ids: Sequence[int], prompt_ids: Sequence[int]) -> int:
    """The first position at which the text with the answer differs from the text without it; at least one token is the answer's."""
    same = 0
    while same < min(len(ids) - 1, len(prompt_ids)) and ids[same] == prompt_ids[same]:
        same += 1
    return same


def check_pooling(model: SequenceClassifier, pooling: str) -> Pooling:
    """The pooling, if it is one and the model can do it.

    Raises:
        ConfigError: no such pooling.
        ModelError: a model whose head does not read single tokens.
    """
    if pooling == "last":
        return "last"
    if pooling != "answer_mean":
        raise ConfigError("reward model", [f"pooling is {pooling!r}, expected last or answer_mean"])
    if not reads_tokens(model.module):
        raise ModelError(
            f'"{model.name}" ({type(model.module).__name__}) scores a whole text, not its tokens; use pooling: last'
        )
    return "answer_mean"


def reads_tokens(module: Any) -> bool:
    """Whether the head is one linear layer on each token of a causal trunk."""
    return isinstance(module, GenericForSequenceClassification) and isinstance(
        getattr(module, "score", None), nn.Linear
    )


@torch.inference_mode()
def mean_scores(model: SequenceClassifier, answers: Sequence[AnswerIds]) -> Tensor:
    """The mean score of each answer's tokens, shape (N,), float32 on the CPU."""
    scores_N = torch.zeros(len(answers))
    for rows in length_sorted_batches([len(answer.ids) for answer in answers], model.batch_tokens):
        tokens_NS, mask_NS = model.padded([answers[row].ids for row in rows])
        hidden_NSD = model.module.base_model(tokens_NS, attention_mask=mask_NS, use_cache=False).last_hidden_state
        scores_NS = model.module.score(hidden_NSD)[..., 0].float().cpu()
        for place, row in enumerate(rows):
            answer = answers[row]
            scores_N[row] = scores_NS[place, answer.start : len(answer.ids)].mean()
    return scores_N
