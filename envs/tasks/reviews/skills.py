"""Prompts for the three skills of the shipped review model: continue, critique, revise.

Every function takes text and returns text. The markers survive ``tokenizer(text)`` because they are added
tokens of the shipped tokenizer, and the tokenizer itself puts ``<s>`` in front. A training sequence reads::

    <s>movie: REVIEW<critique> poor, make it great<revise> REVISION</s>

A review carries the tag of its source, a critique is a *verdict* (how people rate the review) and a *request*
(which level the revision shall have), a revision carries no tag. The model was trained to end with ``</s>`` after
a review, after a verdict and after a revision.
"""

from collections.abc import Sequence
from typing import Final

from bakeoff.errors import UserError

BOS: Final = "<s>"
EOS: Final = "</s>"
PAD: Final = "<pad>"
CRITIQUE: Final = "<critique>"
REVISE: Final = "<revise>"
SPECIAL_TOKENS: Final = (PAD, BOS, EOS, CRITIQUE, REVISE)

TAGS: Final = ("movie", "gadget")

LEVELS: Final = ("awful", "poor", "mixed", "good", "great")
"""The verdicts, worst first; with a space in front each is one token."""

LEVEL_RATINGS: Final = (-2.6, -1.4, 0.0, 1.4, 2.6)
"""The human rating (scale -4 to 4) that each of LEVELS stands for."""

REQUEST: Final = ", make it"
"""The separator between a verdict and the requested level."""


def split_tag(text: str) -> tuple[str, str]:
    """Take the source tag off a text: ``"movie: the plot"`` becomes ``("movie", "the plot")``; no tag gives ``""``."""
    for tag in TAGS:
        if text.startswith(f"{tag}:"):
            return tag, text[len(tag) + 1 :].strip()
    return "", text.strip()


def level_of(rating: float) -> str:
    """The level whose rating is nearest to a human rating on the scale -4 to 4."""
    distances = [abs(rating - center) for center in LEVEL_RATINGS]
    return LEVELS[distances.index(min(distances))]


def continue_prompt(opening: str) -> str:
    """Prompt whose completion is the rest of a review, ended by ``</s>``; an opening may carry a tag or none."""
    return opening.strip()


def critique_prompt(review: str) -> str:
    """Prompt whose next token is the verdict on a review (one of LEVELS with a space in front), then ``</s>``.

    The review is an opening and its completion, as text, with the opening's tag if it had one.
    """
    return f"{review.strip()}{CRITIQUE}"


def critique_text(verdict: str, request: str = "great") -> str:
    """A whole critique, ``"poor, make it great"``, from two of LEVELS; UserError if either is no level."""
    for level in (verdict, request):
        if level not in LEVELS:
            raise UserError(f'no critique level "{level}"; choose one of {", ".join(LEVELS)}')
    return f"{verdict}{REQUEST} {request}"


def revise_prompt(review: str, critique: str, opening: str = "") -> str:
    """Prompt whose completion is a revision that continues ``opening``, ended by ``</s>``.

    ``critique`` is ``"poor, make it great"`` or a bare verdict, to which ``", make it great"`` is added. The tag
    of the opening is dropped, since a revision has none; an empty opening leaves the beginning to the model.
    """
    critique = critique.strip()
    if REQUEST not in critique:
        critique = critique_text(critique)
    _, words = split_tag(opening)
    return f"{review.strip()}{CRITIQUE} {critique}{REVISE}" + (f" {words}" if words else "")


def critique_score(level_probabilities: Sequence[float]) -> float:
    """Expected human rating (-4 to 4) from the probabilities that the model gives to LEVELS as the verdict.

    The five numbers, in the order of LEVELS, need not sum to one: mass on other tokens is left out. The score ranks
    reviews; measure.py says how well. UserError if the count is wrong or the sum is not positive.
    """
    total = float(sum(level_probabilities))
    if len(level_probabilities) != len(LEVELS) or not total > 0.0:
        raise UserError(f"expected {len(LEVELS)} probabilities with a positive sum, got {list(level_probabilities)}")
    return sum(p * r for p, r in zip(level_probabilities, LEVEL_RATINGS, strict=True)) / total
