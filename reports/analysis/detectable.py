"""What a run could have shown: the smallest difference that its seeds find, and where their scatter comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bakeoff.reports.data.text import number
from bakeoff.reports.statistics.leaderboard import seed_scores
from bakeoff.reports.statistics.power import MOST_SEEDS, Components, detectable_difference, seeds_needed
from bakeoff.reports.statistics.scatter import Scatter, scatter

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


def detectable(results: RunData, task: str, best: str, level: Sequence[str]) -> list[str]:
    """Two sentences on a task: what its seeds could have shown, and what makes them scatter; none where nothing scatters.

    Args:
        results: what was read.
        task: which task.
        best: its highest contestant.
        level: contestants over which the lead is not beyond seed noise, highest first.
    """
    found = scatter(results, task)
    if found is None or sum(part.total for part in found.pair) <= 0:
        return []
    seeds = found.typical_seeds
    one, other = found.pair
    smallest = detectable_difference((one.total, other.total), (seeds, seeds), found.contestants)
    several = f" over {found.contestants - 1} comparisons" if found.contestants > 2 else ""
    sentence = (
        f"What {seeds} seeds can show: a difference of {number(smallest)} between two contestants is found with 80 % power "
        f"(5 % error{several}), a smaller one less often"
    )
    return [f"{sentence}{_lead(results, found, best, level)}.", f"{parts(one)}."]


def _lead(results: RunData, found: Scatter, best: str, level: Sequence[str]) -> str:
    """What the closest lead that could be noise would need."""
    known = [label for label in level if label in found.seeds]
    if best not in found.seeds or not known:
        return ""
    gap = float(
        seed_scores(results, found.task, best, found.metric).mean()
        - seed_scores(results, found.task, known[0], found.metric).mean()
    )
    if gap <= 0:
        return ""
    needed = seeds_needed(gap, found.variances(best, known[0]), found.contestants)
    many = f"about {needed:,}" if needed is not None else f"more than {MOST_SEEDS:,}"
    return f"; {best}'s lead over {known[0]}, {number(gap)}, would need {many} seeds if it is real"


def parts(components: Components) -> str:
    """How much of the scatter is training and how much is evaluation sampling, without its full stop."""
    deviation = f"Scores scatter between seeds with a standard deviation of {number(math.sqrt(components.observed))}"
    if math.isnan(components.evaluation):
        return f"{deviation}; too few texts are stored to say how much of it is evaluation sampling"
    if components.evaluation == components.completions == 0:
        return f"{deviation}, all of it from training: evaluation is exact"
    sampling = f"evaluation sampling{f' with {components.completions:,} completions' if components.completions else ''}"
    if components.training == 0:
        return f"{deviation}, no more than {sampling} explains ({number(math.sqrt(components.evaluation))})"
    share = round(100 * components.evaluation_share)
    return f"{deviation}: about {100 - share} % of the variance is training, {share} % {sampling}"
