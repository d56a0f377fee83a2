"""Calling a judge on completions outside the environment, where no meter counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bakeoff.envs.rewards.call import reward_name, score
from bakeoff.envs.tasks.base import Measure


def judged(
    measure: Measure,
    prompts: Sequence[str],
    texts: Sequence[str],
    completion_ids: Sequence[list[int]],
    prompt_indices: Sequence[int],
    columns: Mapping[str, Sequence[Any]],
) -> dict[int, float]:
    """The scores of a judge for the completions that concern it: row to value.

    Args:
        measure: the judge.
        prompts: N prompts.
        texts: N completions.
        completion_ids: their tokens.
        prompt_indices: which prompt of its split each answers.
        columns: the split's columns, one value per prompt.

    Raises:
        RewardError: the judge failed.
    """
    rows = [row for row, index in enumerate(prompt_indices) if measure.concerns(columns, index)]
    offered = {
        **{name: [values[prompt_indices[row]] for row in rows] for name, values in columns.items()},
        "completion_ids": [completion_ids[row] for row in rows],
        "prompt_index": [int(prompt_indices[row]) for row in rows],
    }
    name = reward_name(measure.reward)
    values = score(measure.reward, name, [prompts[row] for row in rows], [texts[row] for row in rows], offered)
    return dict(zip(rows, (float(value) for value in values), strict=True))
