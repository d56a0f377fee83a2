"""Turns rated sentences into training sequences that teach all three skills at once.

One sequence is ``<s>movie: REVIEW<critique> VERDICT, make it LEVEL<revise> REVISION</s>``. What the model shall say
next differs from what comes next at two places, so that a skill ends where it shall end: after the review and after
the verdict the *label* is ``</s>``. The request is given, never predicted, and neither are the markers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from bakeoff.envs.tasks.reviews import skills
from bakeoff.envs.tasks.reviews.fitting.corpus import RatedSentence, RevisionIndex
from bakeoff.errors import UserError

IGNORE: Final = -100
"""Label of positions that train nothing (PyTorch's cross-entropy convention)."""

CONTINUE, JUDGE, REVISE = 0, 1, 2
"""The skill that a label belongs to."""


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences: B of them, T tokens long; labels are already shifted."""

    tokens_BT: torch.Tensor
    """Token ids, pad on the right (causal attention never looks there)."""
    labels_BT: torch.Tensor
    """The token to predict *at* each position, or IGNORE."""
    skill_BT: torch.Tensor
    """Which skill each label belongs to; IGNORE where there is no label."""
    review_mask_BT: torch.Tensor
    """True on the review's own tokens."""
    critique_B: torch.Tensor
    """Position of the ``<critique>`` token."""
    rating_B: torch.Tensor
    """Mean human rating of the review, -4 to 4."""
    revision_mask_BT: torch.Tensor
    """True on ``<revise>`` and the revision's tokens."""
    request_B: torch.Tensor
    """Rating that the requested level stands for; 0 where there is no revision."""
    weight_BT: torch.Tensor
    """Weight of each label in the loss: a revision's tokens by how much the requested level favors them, else 1."""


class SequenceMaker:
    """Draws a fresh verdict, request and revision for every review at each call."""

    def __init__(
        self, sentences: Sequence[RatedSentence], pool: Sequence[RatedSentence], tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self._sentences = sentences
        index = RevisionIndex(pool)
        self._revisions = [[index.candidates(s, level) for level in skills.LEVELS] for s in sentences]
        self._review_ids = _encode(tokenizer, [" " + s.text for s in sentences])
        self._pool_ids = self._review_ids if pool is sentences else _encode(tokenizer, [" " + s.text for s in pool])
        self._lift_LV = level_lift(self._pool_ids, [s.level for s in pool], len(tokenizer))
        self._tags = dict(zip(skills.TAGS, _encode(tokenizer, [f"{tag}:" for tag in skills.TAGS]), strict=True))
        levels = _encode(tokenizer, [f" {level}" for level in skills.LEVELS])
        if any(len(ids) != 1 for ids in levels):
            raise UserError(f"each verdict must be one token, got {dict(zip(skills.LEVELS, levels, strict=True))}")
        self._levels = [ids[0] for ids in levels]
        # In context: on its own the comma would get a space that it does not have behind a verdict.
        self._request = _encode(tokenizer, [f" {skills.LEVELS[0]}{skills.REQUEST}"])[0][1:]
        ids = [tokenizer.get_vocab()[mark] for mark in skills.SPECIAL_TOKENS]
        self._pad, self._bos, self._eos, self._critique, self._revise = ids

    def __len__(self) -> int:
        return len(self._sentences)

    def batches(self, batch_size: int, generator: torch.Generator, tag_dropout: float = 0.15) -> Iterator[Batch]:
        """One pass over the sentences in random order, in batches of like length; the last short one is left out."""
        order = torch.randperm(len(self), generator=generator).tolist()
        pool = batch_size * 16
        for start in range(0, len(order), pool):
            rows = [self._row(i, generator, tag_dropout) for i in order[start : start + pool]]
            rows.sort(key=lambda row: len(row.tokens))
            groups = [rows[i : i + batch_size] for i in range(0, len(rows) - batch_size + 1, batch_size)]
            for k in torch.randperm(len(groups), generator=generator).tolist():
                yield self._pack(groups[k])

    def _row(self, i: int, generator: torch.Generator, tag_dropout: float) -> "_Row":
        draws = torch.rand(4, generator=generator).tolist()
        sentence = self._sentences[i]
        tag = self._tags[sentence.source] if draws[0] >= tag_dropout else []
        review = self._review_ids[i]
        verdict = self._levels[dithered_level(sentence.rating, draws[1])]
        tokens = [self._bos, *tag, *review, self._critique, verdict]
        labels = [*([IGNORE] * len(tag)), *review, self._eos, verdict, self._eos]
        skill = [*([CONTINUE] * (len(tag) + len(review) + 1)), JUDGE, JUDGE]
        first, end = 1 + len(tag), 1 + len(tag) + len(review)
        available = [level for level, found in enumerate(self._revisions[i]) if found]
        if not available:
            return _Row(tokens, labels, skill, first, end, sentence.rating, len(tokens), 0.0)
        level = available[int(draws[2] * len(available))]
        found = self._revisions[i][level]
        revision = self._pool_ids[found[int(draws[3] * len(found))]]
        request = [*self._request, self._levels[level], self._revise]
        revise_at = len(tokens) + len(request) - 1
        tokens += [*request, *revision]
        labels += [*([IGNORE] * (len(request) - 1)), *revision, self._eos]
        skill += [REVISE] * (len(request) + len(revision))
        return _Row(tokens, labels, skill, first, end, sentence.rating, revise_at, skills.LEVEL_RATINGS[level])

    def _pack(self, rows: Sequence["_Row"]) -> Batch:
        size = (len(rows), max(len(row.tokens) for row in rows))
        tokens_BT = torch.full(size, self._pad)
        labels_BT = torch.full(size, IGNORE)
        skill_BT = torch.full(size, IGNORE)
        review_mask_BT = torch.zeros(size, dtype=torch.bool)
        revision_mask_BT = torch.zeros(size, dtype=torch.bool)
        weight_BT = torch.ones(size)
        for b, row in enumerate(rows):
            tokens_BT[b, : len(row.tokens)] = torch.tensor(row.tokens)
            labels_BT[b, : len(row.labels)] = torch.tensor(row.labels)
            skill_BT[b, : len(row.skill)] = torch.tensor(row.skill)
            review_mask_BT[b, row.first : row.end] = True
            revision_mask_BT[b, row.revise_at : len(row.tokens)] = True
            if row.revise_at < len(row.tokens):
                lift_V = self._lift_LV[skills.LEVEL_RATINGS.index(row.request)]
                weight_BT[b, row.revise_at : len(row.tokens)] = lift_V[torch.tensor(row.labels[row.revise_at :])]
        skill_BT[labels_BT == IGNORE] = IGNORE
        return Batch(
            tokens_BT,
            labels_BT,
            skill_BT,
            review_mask_BT,
            torch.tensor([row.end for row in rows]),
            torch.tensor([row.rating for row in rows]),
            revision_mask_BT,
            torch.tensor([row.request for row in rows]),
            weight_BT,
        )


@dataclass(frozen=True)
class _Row:
    tokens: list[int]
    labels: list[int]
    skill: list[int]
    first: int
    end: int
    rating: float
    revise_at: int
    request: float


def level_lift(
    token_ids: Sequence[Sequence[int]], levels: Sequence[str], vocab_size: int, bound: float = 3.0
) -> torch.Tensor:
    """How much likelier each token is in sentences of each level than overall, shape (5, vocabulary).

    Smoothed by twenty occurrences at the overall rate, held between 1/bound and bound; 1 means that the level is no
    matter. As a weight on the revision's labels it makes a request count beyond what the corpus alone would teach: the
    tokens that tell levels apart are few among the many that do not.
    """
    counts_LV = torch.zeros(len(skills.LEVELS), vocab_size)
    for ids, level in zip(token_ids, levels, strict=True):
        row = torch.tensor(ids)
        counts_LV[skills.LEVELS.index(level)].index_add_(0, row, torch.ones(len(row)))
    overall_V = (counts_LV.sum(0) + 1e-3) / (counts_LV.sum() + 1e-3 * vocab_size)
    totals_L1 = counts_LV.sum(1, keepdim=True)
    expected_LV = totals_L1 * overall_V
    return ((counts_LV + 20.0) / (expected_LV + 20.0)).clamp(1 / bound, bound)


def dithered_level(rating: float, uniform: float) -> int:
    """One of the two levels around a rating, drawn so that the expected level rating is the rating itself.

    Rounding at random keeps what the average of twenty raters says between two verdicts. ``uniform`` is in [0, 1).
    """
    centers = skills.LEVEL_RATINGS
    if rating <= centers[0]:
        return 0
    for low in range(len(centers) - 1):
        if rating < centers[low + 1]:
            return low + int(uniform < (rating - centers[low]) / (centers[low + 1] - centers[low]))
    return len(centers) - 1


@torch.no_grad()
def held_out_nats(model: LlamaForCausalLM, maker: SequenceMaker, seed: int = 0) -> dict[str, float]:
    """Mean nats per token on held-out reviews, by skill: continue (given the tag), critique (the verdict), revise."""
    model.train(False)
    total = torch.zeros(3, dtype=torch.float64)
    count = torch.zeros(3)
    generator = torch.Generator().manual_seed(seed)
    for batch in maker.batches(min(32, len(maker)), generator, tag_dropout=0.0):
        chosen_BT = batch.labels_BT != IGNORE
        hidden_BTD = model.model(input_ids=batch.tokens_BT, use_cache=False).last_hidden_state
        logits_NV = model.lm_head(hidden_BTD[chosen_BT]).float()
        nats_N = torch.nn.functional.cross_entropy(logits_NV, batch.labels_BT[chosen_BT], reduction="none")
        skill_N = batch.skill_BT[chosen_BT]
        for skill in (CONTINUE, JUDGE, REVISE):
            total[skill] += nats_N[skill_N == skill].double().sum()
            count[skill] += (skill_N == skill).sum()
    names = {CONTINUE: "continue", JUDGE: "critique", REVISE: "revise"}
    return {name: round(float(total[skill] / count[skill]), 4) for skill, name in names.items() if count[skill]}


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
