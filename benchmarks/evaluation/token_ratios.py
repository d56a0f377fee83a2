"""Log-ratios of contestant to reference token by token, for the few answers that are stored."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.model import LanguageModel

MOST_TOKENS = 256
"""Tokens of an answer that are stored; a longer one is cut here."""


class TokenRatios(NamedTuple):
    """One answer, token by token."""

    tokens: list[str]
    """What each token adds to the text."""
    log_ratios: list[float | None] | None
    """log pi(token) - log pi_ref(token) in nats, None where not finite; None altogether where the contestant has no
    log-probabilities of its own."""


def token_ratios(reference: LanguageModel, answers: Completions) -> list[TokenRatios]:
    """The log-ratio of each token of each answer, from its own log-probabilities and one forward pass of the reference.

    Args:
        reference: the task's own language model.
        answers: ``logprobs_BT`` under what sampled them; None where that is unknown.
    """
    if len(answers) == 0:
        return []
    ids = [tokens[mask].tolist() for tokens, mask in zip(answers.tokens_BT.cpu(), answers.mask_BT.cpu(), strict=True)]
    pieces = [reference.pieces(row[:MOST_TOKENS]) for row in ids]
    if answers.logprobs_BT is None:
        return [TokenRatios(row, None) for row in pieces]
    # Kept activations are those of the contestant's trunk, which need not be cut where the reference's is.
    theirs_BT = reference.token_logprobs(dataclasses.replace(answers, features_BSD=None))
    ratios_BT = answers.logprobs_BT.to(theirs_BT.device).double() - theirs_BT.double()
    rows = [ratios[mask].tolist() for ratios, mask in zip(ratios_BT.cpu(), answers.mask_BT.cpu(), strict=True)]
    return [TokenRatios(p, [_rounded(x) for x in row[:MOST_TOKENS]]) for p, row in zip(pieces, rows, strict=True)]


def _rounded(ratio: float) -> float | None:
    return round(ratio, 3) + 0.0 if math.isfinite(ratio) else None  # + 0.0: no minus zero
