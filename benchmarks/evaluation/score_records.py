"""Scores of the texts that an algorithm wrote while training: for the record, no algorithm sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bakeoff.benchmarks.evaluation.score_completions import judged
from bakeoff.envs.tasks.base import Measure, Task
from bakeoff.seeding import untouched_global_randomness


def with_scores(rows: Sequence[Mapping[str, Any]], task: Task) -> list[dict[str, Any]]:
    """Rows of ``Algorithm.records()``; those with ``texts`` of a prompt get ``scores``: judge to name of the text to number.

    The judges are the proxy, gold where there is one, and the task's measures. They are called outside the environment, so no
    meter counts them.

    Raises:
        RewardError: a judge failed.
    """
    found = [dict(row) for row in rows]
    places = [
        (number, name)
        for number, row in enumerate(found)
        if isinstance(row.get("texts"), Mapping) and "prompt_index" in row
        for name in row["texts"]
    ]
    if not places:
        return found
    prompts = [str(found[number]["prompt"]) for number, _ in places]
    texts = [str(found[number]["texts"][name]) for number, name in places]
    indices = [int(found[number]["prompt_index"]) for number, _ in places]
    columns = task.prompts.of_split("train")[1]
    ids = [_closed_ids(text, task) for text in texts]
    with untouched_global_randomness():
        for judge, measure in judges(task).items():
            for place, value in judged(measure, prompts, texts, ids, indices, columns).items():
                number, name = places[place]
                found[number].setdefault("scores", {}).setdefault(judge, {})[name] = round(value, 6)
    return found


def _closed_ids(text: str, task: Task) -> list[int]:
    """The tokens of a text as an episode would have them: ended, or cut at the limit."""
    model = task.language_model
    ids = [int(i) for i in model.tokenizer(text, add_special_tokens=False)["input_ids"]]
    return [*ids, model.eos_ids[0]][: task.max_new_tokens]


def judges(task: Task) -> dict[str, Measure]:
    """All rewards that can score a completion, by name."""
    gold = {} if task.gold is None else {"gold": Measure(task.gold)}
    return {"proxy": Measure(task.reward), **gold, **task.measures}
