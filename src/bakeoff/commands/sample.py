"""``bakeoff sample``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bakeoff.commands import DONE
from bakeoff.commands.arguments import positive
from bakeoff.text import printable


def add(commands: Any) -> None:
    """Declare it."""
    sample = commands.add_parser(
        "sample",
        help="let a trained model of a finished cell answer a prompt",
        description="Sample completions from the model that a finished cell has saved.",
    )
    sample.add_argument("cell", metavar="CELL_DIR", type=Path, help="such as RUN/cells/reviews/ppo/seed-0")
    sample.add_argument("--prompt", metavar="TEXT", required=True, help="what to complete")
    sample.add_argument("-n", metavar="N", type=positive, default=1, dest="count", help="completions (default: 1)")
    sample.add_argument("--seed", metavar="K", type=int, default=0, help="seed of the sampling (default: 0)")
    sample.add_argument("--temperature", metavar="X", type=float, default=1.0, help="below 1 sharpens (default: 1)")
    sample.add_argument("--top-k", metavar="K", type=int, default=0, help="keep the K likeliest tokens (default: all)")
    sample.add_argument("--top-p", metavar="P", type=float, default=1.0, help="keep this much probability (default: 1)")
    sample.add_argument("--max-new-tokens", metavar="N", type=positive, help="length limit (default: the task's)")
    sample.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.benchmarks.evaluation.sample_cell import sample_cell

    found = sample_cell(
        options.cell,
        options.prompt,
        options.count,
        seed=options.seed,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        max_new_tokens=options.max_new_tokens,
    )
    for note in found.notes:
        print(printable(f"note: this contestant {note}"), file=sys.stderr)
    for text in found.texts:
        print(printable(options.prompt + text))
    return DONE
