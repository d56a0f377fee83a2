"""Answers from the model that a finished cell has saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bakeoff import plain_files
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.cell_store import Status
from bakeoff.errors import RunFolderError, UserError

_DEFAULT_LENGTH = 64


@dataclass(frozen=True)
class Sampled:
    """Completions of one prompt."""

    texts: list[str]
    """The completions."""
    notes: list[str]
    """The cell's notes, as ``config.json`` has them."""


def sample_cell(
    cell: Path,
    prompt: str,
    count: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
) -> Sampled:
    """Sample completions from a cell's model.

    Raises:
        RunFolderError: no cell there, one without a model, or one that holds links.
        UserError: a setting out of its range.
    """
    if not temperature > 0 or top_k < 0 or not 0 < top_p <= 1:
        raise UserError("--temperature must be above 0, --top-k at least 0, and --top-p above 0 and at most 1")
    folder = cell / "model"
    if cell.is_dir():
        plain_files.refuse_links(cell)
    if not folder.is_dir():
        if not (cell / "config.json").is_file():
            raise RunFolderError(f"{cell}: not a cell; give a folder such as RUN/cells/reviews/ppo/seed-0")
        raise RunFolderError(
            f"{cell}: no model yet (the cell is {Status.read(cell).status}); finish it with `bakeoff run`"
        )
    if not (folder / "config.json").is_file():
        raise RunFolderError(
            f"{cell}: what it trained is not a language model; see samples.jsonl for its answers to the evaluation prompts"
        )
    from bakeoff.envs.language_model.model import LanguageModel
    from bakeoff.seeding import torch_generator

    # RUN/cells/TASK/LABEL/seed-K; a cell that was copied elsewhere has no task beside it.
    parents = cell.absolute().parents
    task = (atomic_files.read_json(parents[3] / "tasks" / f"{parents[1].name}.json") or {}) if len(parents) > 3 else {}
    limit = max_new_tokens or int(task.get("max_new_tokens") or _DEFAULT_LENGTH)
    model = LanguageModel.load(folder, chat=bool(task.get("chat", False)))
    encoded = model.encode([prompt])
    model.check_prompt_length(encoded, [prompt], limit)
    prompts = model.pad(encoded * count)
    try:
        completions = model.sample(
            prompts, limit, torch_generator(seed, "sample"), temperature=temperature, top_k=top_k, top_p=top_p
        )
    except FloatingPointError as error:
        raise UserError(f"{cell}: {error}, or raise --temperature {temperature:g}") from error
    config = atomic_files.read_json(cell / "config.json") or {}
    return Sampled(model.decode(completions.tokens_BT, completions.mask_BT), list(config.get("notes", [])))
