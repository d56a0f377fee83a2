"""``bakeoff export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bakeoff.commands import DONE


def add(commands: Any) -> None:
    """Declare it."""
    export = commands.add_parser(
        "export",
        help="a run's numbers for other tools: CSV, Parquet, TensorBoard, Weights & Biases",
        description="Write what a run folder holds, finished or not, for another tool.",
    )
    export.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    export.add_argument(
        "--to",
        metavar="KIND",
        required=True,
        help="csv, parquet, tensorboard, wandb, or module:Class of your own tracker",
    )
    export.add_argument("--out", metavar="DIR", type=Path, help="where to write it (default: RUN/export/KIND)")
    export.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.benchmarks.export import export

    print(export(options.run, options.to, options.out))
    return DONE
