"""``bakeoff plot``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bakeoff.commands import DONE


def add(commands: Any) -> None:
    """Declare it."""
    plot = commands.add_parser(
        "plot",
        help="draw one figure of one or several run folders",
        description="Draw one figure from what run folders hold, one panel per task. `--kind help` lists the kinds.",
    )
    plot.add_argument("runs", metavar="DIR", nargs="*", type=Path, help="run folders")
    plot.add_argument("--kind", metavar="KIND", required=True, help="what to draw, such as frontier; `help` lists all")
    plot.add_argument(
        "--out", metavar="FILE", type=Path, help="where to draw it; its ending sets the format (.svg, .png, .pdf)"
    )
    plot.add_argument("--task", metavar="NAME", help="this task alone (default: every task that has something to show)")
    plot.add_argument("--metric", metavar="NAME", help="what is measured (kinds learning_curves, improvement, gains)")
    plot.add_argument("--meter", metavar="NAME", help="what was spent (kind learning_curves; default: reward_queries)")
    plot.add_argument("--style", metavar="STYLE", help="a matplotlib style by name or file instead of the report's own")
    plot.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.errors import UserError
    from bakeoff.reports.figures import KINDS, write_figure

    if options.kind == "help":
        for kind, shows in KINDS.items():
            print(f"{kind:<18}{shows}")
        return DONE
    if options.out is None:
        raise UserError("plot: no --out; name the file to draw into, such as figure.svg")
    chosen = {name: getattr(options, name) for name in ("metric", "meter") if getattr(options, name) is not None}
    print(write_figure(options.runs, options.kind, options.out, task=options.task, style=options.style, **chosen))
    return DONE
