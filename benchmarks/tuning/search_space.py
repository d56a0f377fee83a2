"""What `bakeoff tune` searches where a suite declares no space: a range around each default of an algorithm."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import annotated_types

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from bakeoff.algos.core.algorithm import Algorithm

RATE_FACTOR = 8.0
"""How far the learning rate is searched on either side, as a factor."""
FLOAT_FACTOR = 3.0
"""How far another positive number is searched on either side."""

Space = dict[str, dict[str, Any] | list[Any]]
"""Setting to ``{low, high, log}`` or a list of choices."""


def default_space(kind: type[Algorithm], own: Mapping[str, Any], rate: float) -> Space:
    """A space for an algorithm from its settings' defaults.

    The learning rate within a factor of 8 of what the label has by itself, evenly in its logarithm, and each number that the
    algorithm's own settings add to those that all share: fractional ones within a factor of 3, whole ones halved, kept or
    doubled; always inside the setting's limits. What the label sets itself stays as it is, and so does what the algorithm excludes
    (``not_tuned``).

    Args:
        kind: the algorithm.
        own: settings of the label; they are not searched.
        rate: the learning rate that it has without a search.
    """
    from bakeoff.algos.core.algorithm import DataSource
    from bakeoff.algos.core.config import AlgorithmConfig

    space: Space = {}
    fixed = {*own, *kind.not_tuned}
    if kind.data_source is not DataSource.NONE and "learning_rate" not in fixed:
        space["learning_rate"] = {"low": rate / RATE_FACTOR, "high": rate * RATE_FACTOR, "log": True}
    for name, field in kind.Config.model_fields.items():
        if name in AlgorithmConfig.model_fields or name in fixed:
            continue
        found = _around(field)
        if found is not None:
            space[name] = found
    return space


def _around(field: FieldInfo) -> dict[str, Any] | list[Any] | None:
    """A range around a numeric default; None for what is not a number, or 0, which has no scale."""
    default = field.default
    if isinstance(default, bool) or not isinstance(default, int | float) or default <= 0:
        return None
    kinds = _kinds(field.annotation)
    low, high = _limits(field)
    if float in kinds:
        ends = max(default / FLOAT_FACTOR, low), min(default * FLOAT_FACTOR, high)
        return {"low": ends[0], "high": ends[1], "log": True} if ends[0] < ends[1] else None
    if int in kinds:
        choices = sorted(
            {value for value in (default // 2, default, default * 2) if low <= value <= high and value > 0}
        )
        return choices if len(choices) > 1 else None
    return None


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    return {annotation}


def _limits(field: FieldInfo) -> tuple[float, float]:
    """The lowest and the highest value that a field takes; open ends are moved inside by the smallest step."""
    low, high = -math.inf, math.inf
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Ge):
            low = max(low, float(rule.ge))  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Gt):
            low = max(low, math.nextafter(float(rule.gt), math.inf))  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Le):
            high = min(high, float(rule.le))  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Lt):
            high = min(high, math.nextafter(float(rule.lt), -math.inf))  # type: ignore[arg-type]
    return low, high
