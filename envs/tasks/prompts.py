"""Prompts to learn on and prompts to be judged on, and the files they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bakeoff.errors import PromptError

Split = Literal["train", "evaluation"]
"""A split: prompts to train on, or prompts to evaluate on."""

RESERVED_COLUMNS = ("prompts", "completions", "completion_ids", "prompt_index")
"""Names that a reward receives anyway; a prompt file may not use them."""

Columns = Mapping[str, tuple[Any, ...]]
"""Extra values that go to the reward, one for each prompt, by name."""


@dataclass(frozen=True)
class PromptSet:
    """Two disjoint sets of prompts, each with optional columns for the reward."""

    train: tuple[str, ...]
    """Prompts that algorithms play."""
    evaluation: tuple[str, ...]
    """Prompts that contestants are judged on."""
    columns: Mapping[str, Columns] = field(default_factory=dict)
    """By split (``train``, ``evaluation``): columns with one value per prompt."""
    allow_overlap: bool = False
    """True where every completion is enumerated: nothing can be overfitted to, so both splits may be the same."""

    def __post_init__(self) -> None:
        for split in ("train", "evaluation"):
            prompts = getattr(self, split)
            if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
                raise PromptError(f"the {split} prompts must be a sequence of strings")
            object.__setattr__(self, split, tuple(prompts))
            if not prompts:
                raise PromptError(f"there are no {split} prompts; give at least one")
            for name, values in self.columns.get(split, {}).items():
                if len(values) != len(prompts):
                    raise PromptError(f'column "{name}" has {len(values)} values for {len(prompts)} {split} prompts')
        _check_names(self.columns)
        if not self.allow_overlap:
            common = sorted(set(self.train) & set(self.evaluation))
            if common:
                raise PromptError(_overlap(common, "the train prompts", "the evaluation prompts"))

    def of_split(self, split: Split) -> tuple[tuple[str, ...], Columns]:
        """The prompts of a split and their columns."""
        if split not in ("train", "evaluation"):
            raise PromptError(f'no split "{split}"; there are "train" and "evaluation"')
        return (self.train if split == "train" else self.evaluation), self.columns.get(split, {})


def load_prompts(
    train: str | Path, evaluation: str | Path | None = None, evaluation_fraction: float = 0.2, seed: int = 0
) -> PromptSet:
    """Read prompts from UTF-8 files.

    A ``.jsonl`` file holds one object per line: its ``prompt`` is the text, any other key is a column for the reward
    (None where a line lacks it). Any other file holds one prompt per line, taken as it is; blank lines are skipped.

    Args:
        train: the file to learn on.
        evaluation: the file to judge on; without one, part of ``train`` is held out.
        evaluation_fraction: which part of the distinct prompts is held out then, between 0 and 1.
        seed: which prompts are held out then.

    Raises:
        PromptError: a file that is missing, empty, not UTF-8 or not what its name says, or splits that share a prompt.
    """
    train_prompts, train_columns = _read(Path(train))
    if evaluation is not None:
        held_out, held_out_columns = _read(Path(evaluation))
        common = sorted(set(train_prompts) & set(held_out))
        if common:
            raise PromptError(_overlap(common, str(train), str(evaluation)))
        return PromptSet(train_prompts, held_out, {"train": train_columns, "evaluation": held_out_columns})
    rows = _hold_out(train_prompts, evaluation_fraction, seed, str(train))
    kept = [row for row in range(len(train_prompts)) if row not in rows]
    both = {"train": kept, "evaluation": sorted(rows)}
    prompts = {split: tuple(train_prompts[row] for row in chosen) for split, chosen in both.items()}
    columns = {
        split: {name: tuple(values[row] for row in chosen) for name, values in train_columns.items()}
        for split, chosen in both.items()
    }
    return PromptSet(prompts["train"], prompts["evaluation"], columns)


def _hold_out(prompts: Sequence[str], fraction: float, seed: int, source: str) -> set[int]:
    """Rows to hold out; copies of one prompt always stay together."""
    if not 0 < fraction < 1:
        raise PromptError(f"evaluation_fraction is {fraction}, expected a number between 0 and 1")
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) < 2:
        raise PromptError(f"{source} holds one prompt only, so none can be held out; add prompts or an evaluation file")
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    chosen = np.random.default_rng(seed).permutation(len(distinct))[:count]
    held_out = {distinct[int(index)] for index in chosen}
    return {row for row, prompt in enumerate(prompts) if prompt in held_out}


def _read(path: Path) -> tuple[tuple[str, ...], dict[str, tuple[Any, ...]]]:
    try:
        # utf-8-sig: editors on Windows like to start a file with a byte-order mark.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PromptError(f"prompt file {path} does not exist; check the path") from None
    except UnicodeDecodeError as error:
        raise PromptError(f"prompt file {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise PromptError(f"prompt file {path} cannot be read: {error.strerror}") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise PromptError(f"prompt file {path} is empty; write one prompt per line")
    if path.suffix.lower() == ".json":
        raise PromptError(
            f"prompt file {path}: one JSON value; write one object per line in a .jsonl file, or plain text"
        )
    if path.suffix.lower() != ".jsonl":
        return tuple(line for _, line in lines), {}
    return _columns_of([_parse(path, number, line) for number, line in lines], str(path))


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # bad JSON; a number, or nesting, beyond all reason
        place, reason = f"prompt file {path}, line {number}", getattr(error, "msg", str(error))
        raise PromptError(f"{place}: not JSON ({reason}); write one object per line") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise PromptError(f'prompt file {path}, line {number}: expected an object with a text under "prompt"')
    return row


def _columns_of(rows: Sequence[dict[str, Any]], source: str) -> tuple[tuple[str, ...], dict[str, tuple[Any, ...]]]:
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    columns = {name: tuple(row.get(name) for row in rows) for name in names}
    _check_names({source: columns})
    return tuple(row["prompt"] for row in rows), columns


def _check_names(columns: Mapping[str, Columns]) -> None:
    for place, named in columns.items():
        for name in named:
            if name in RESERVED_COLUMNS:
                raise PromptError(f'column "{name}" of {place}: a reward receives its own "{name}"; rename the column')


def _overlap(common: Sequence[str], first: str, second: str) -> str:
    more = f" and {len(common) - 1} more" if len(common) > 1 else ""
    return (
        f"{first} and {second} share the prompt {common[0][:60]!r}{more}; "
        "what is judged must not be learned on: remove it from one of them"
    )
