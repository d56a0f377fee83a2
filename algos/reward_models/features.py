"""What a reward model's head reads of both answers of a pair, computed once.

In a causal model the two answers of a pair share all that is computed for their prompt. So both go in one sequence, prompt,
chosen and rejected, with a mask that hides the one from the other; compared with two texts this saves one prompt per pair. That
a family understands such masks is checked, not assumed; where it does not, each text goes alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bakeoff.algos.reward_models.backbone import head_features
from bakeoff.algos.reward_models.feature_cache import FeatureCache
from bakeoff.envs.preferences.pair import PreferencePair
from bakeoff.envs.rewards.answer_pooling import AnswerIds, Pooling, reads_tokens
from bakeoff.envs.rewards.preference_model import PreferenceModel
from bakeoff.envs.rewards.sequence_classifier import SequenceClassifier, length_sorted_batches
from bakeoff.errors import ModelError

_CHECKED_PAIRS = 4
_SAVE_EVERY = 30.0
_TOLERANCE = 1e-3
"""Largest difference allowed between features in one sequence and alone, relative to their size."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PairFeatures:
    """Features of all pairs."""

    differences_ND: Tensor
    """Features of the chosen answers minus those of the rejected, float32."""
    cut_texts: int
    """Texts of which only the end was read."""


def pair_features(
    model: PreferenceModel, pairs: Sequence[PreferencePair], progress: Progress, cache: Path | None = None
) -> PairFeatures:
    """Features of both answers of every pair.

    Args:
        model: whose head would read them.
        pairs: the pairs.
        progress: hears how far it is.
        cache: a file to keep them in, and to take them from.

    Raises:
        UserError: a cache that cannot be read or written.
        ModelError: a feature that is not finite.
    """
    prompts = [pair.prompt for pair in pairs]
    chosen = model.answer_ids(prompts, [pair.chosen for pair in pairs], cut=False)
    rejected = model.answer_ids(prompts, [pair.rejected for pair in pairs], cut=False)
    limit = model.model.max_length
    cut = sum(len(answer.ids) > limit for answer in [*chosen, *rejected])
    both = [_cut(c, r, limit) for c, r in zip(chosen, rejected, strict=True)]
    if reads_tokens(model.model.module) and _shares_well(model, both):
        differences = _cached(model, both, progress, cache)
    else:
        differences = _apart(model, both)
    if not bool(differences.isfinite().all()):
        row = int((~differences.isfinite()).any(1).nonzero()[0])
        raise ModelError(
            f'"{model.model.name}" gives features that are not finite (first for pair {row + 1}); '
            "use dtype float32, or another model"
        )
    return PairFeatures(differences, cut)


def _cut(chosen: AnswerIds, rejected: AnswerIds, limit: int) -> tuple[AnswerIds, AnswerIds]:
    """Drop as much of the prompt from both as the longer one has to lose; an answer that is too long alone loses more."""
    dropped = max(0, max(len(chosen.ids), len(rejected.ids)) - limit)
    if dropped <= min(chosen.start, rejected.start):
        return _behind(chosen, dropped), _behind(rejected, dropped)
    return _behind(chosen, max(0, len(chosen.ids) - limit)), _behind(rejected, max(0, len(rejected.ids) - limit))


def _behind(answer: AnswerIds, dropped: int) -> AnswerIds:
    return AnswerIds(answer.ids[dropped:], max(0, answer.start - dropped))


def _cached(
    model: PreferenceModel, both: Sequence[tuple[AnswerIds, AnswerIds]], progress: Progress, path: Path | None
) -> Tensor:
    """Features (N, D), those in the cache taken from it; it is written every half a minute, and at the end."""
    cache = FeatureCache(path, model.model, model.pooling)
    keys = [cache.key(pair) for pair in both]
    missing = [row for row, found in enumerate(cache.get(keys)) if found is None]
    lengths = [len(_Joined(*both[row]).ids) for row in missing]
    saved, done, last_reported = time.monotonic(), 0, 0
    for places in length_sorted_batches(lengths, model.model.batch_tokens):
        rows = [missing[place] for place in places]
        for row, features_D in zip(rows, _shared(model.model, [both[row] for row in rows], model.pooling), strict=True):
            cache.put(keys[row], features_D)
        done += len(rows)
        if time.monotonic() - saved > _SAVE_EVERY or done == len(missing):
            cache.save()
            saved = time.monotonic()
        if 10 * done // len(missing) > last_reported:
            last_reported = 10 * done // len(missing)
            progress(f"features of {done:,} of {len(missing):,} pairs")
    return torch.stack([features for features in cache.get(keys) if features is not None])


def _apart(model: PreferenceModel, both: Sequence[tuple[AnswerIds, AnswerIds]]) -> Tensor:
    answers = [c for c, _ in both] + [r for _, r in both]
    if model.pooling == "last":
        features = head_features(model.model, [answer.ids for answer in answers])
    else:
        features = torch.stack([_alone(model.model, answer, model.pooling) for answer in answers])
    return features[: len(both)] - features[len(both) :]


@torch.inference_mode()
def _alone(model: SequenceClassifier, answer: AnswerIds, pooling: Pooling) -> Tensor:
    tokens, mask = model.padded([answer.ids])
    hidden = model.module.base_model(tokens, attention_mask=mask, use_cache=False).last_hidden_state[0].float().cpu()
    features: Tensor = answer.weights(pooling, model.pad_id) @ hidden
    return features


def _shares_well(model: PreferenceModel, both: Sequence[tuple[AnswerIds, AnswerIds]]) -> bool:
    """Whether both answers in one sequence give the features that they give alone, on a few short pairs."""
    few = sorted(both, key=lambda pair: len(pair[0].ids) + len(pair[1].ids))[:_CHECKED_PAIRS]
    try:
        shared = _shared(model.model, few, model.pooling)
    except Exception:  # a family that refuses masks of four dimensions, each in its own way
        return False
    alone = torch.stack([_alone(model.model, c, model.pooling) - _alone(model.model, r, model.pooling) for c, r in few])
    return bool((shared - alone).abs().max() <= _TOLERANCE * alone.abs().max().clamp_min(1e-6))


@torch.inference_mode()
def _shared(model: SequenceClassifier, both: Sequence[tuple[AnswerIds, AnswerIds]], pooling: Pooling) -> Tensor:
    """Feature differences (N, D) with both answers of a pair in one sequence."""
    joined = [_Joined(c, r) for c, r in both]
    rows: list[Tensor | None] = [None] * len(both)
    for batch in length_sorted_batches([len(one.ids) for one in joined], model.batch_tokens):
        hidden_NSD = _hidden(model, [joined[row] for row in batch])
        for place, row in enumerate(batch):
            weights_S = joined[row].weights(pooling, model.pad_id)
            rows[row] = weights_S @ hidden_NSD[place, : len(weights_S)]
    return torch.stack([row for row in rows if row is not None])


class _Joined:
    """Prompt, the rest of the chosen answer and the rest of the rejected one, in one sequence."""

    def __init__(self, chosen: AnswerIds, rejected: AnswerIds) -> None:
        self.chosen, self.rejected = chosen, rejected
        same = 0
        while same < min(len(chosen.ids), len(rejected.ids)) and chosen.ids[same] == rejected.ids[same]:
            same += 1
        self.same = same
        self.ids = chosen.ids + rejected.ids[same:]

    @property
    def positions(self) -> Tensor:
        """The rejected answer's tokens stand where they would stand without the chosen one's, shape (S,)."""
        return torch.cat([torch.arange(len(self.chosen.ids)), torch.arange(self.same, len(self.rejected.ids))])

    @property
    def sees_SS(self) -> Tensor:
        """True where a token (row) sees another: those before it, but nothing of the other answer."""
        sees = torch.ones(len(self.ids), len(self.ids), dtype=torch.bool).tril()
        sees[len(self.chosen.ids) :, self.same : len(self.chosen.ids)] = False
        return sees

    def weights(self, pooling: Pooling, pad_id: int) -> Tensor:
        """How much each token counts in the difference, shape (S,)."""
        weights_S = torch.zeros(len(self.ids))
        weights_S[: len(self.chosen.ids)] += self.chosen.weights(pooling, pad_id)
        of_rejected = self.rejected.weights(pooling, pad_id)
        weights_S[: self.same] -= of_rejected[: self.same]
        weights_S[len(self.chosen.ids) :] -= of_rejected[self.same :]
        return weights_S


def _hidden(model: SequenceClassifier, joined: Sequence[_Joined]) -> Tensor:
    """Final hidden states of a batch, shape (N, S, D), float32 on the CPU."""
    tokens_NS, _ = model.padded([one.ids for one in joined])
    count, longest = tokens_NS.shape
    positions_NS = torch.zeros(count, longest, dtype=torch.long)
    sees_NSS = torch.eye(longest, dtype=torch.bool).repeat(count, 1, 1)  # padding sees itself: an empty row gives NaN
    for row, one in enumerate(joined):
        size = len(one.ids)
        positions_NS[row, :size] = one.positions
        sees_NSS[row, :size, :size] = one.sees_SS
    dtype = next(model.module.base_model.parameters()).dtype
    bias = torch.zeros(sees_NSS.shape, dtype=dtype).masked_fill(~sees_NSS, torch.finfo(dtype).min)
    output: Any = model.module.base_model(
        tokens_NS,
        attention_mask=bias[:, None].to(model.device),
        position_ids=positions_NS.to(model.device),
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state.float().cpu()
    return hidden
