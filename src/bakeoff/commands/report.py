"""``bakeoff report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bakeoff.commands import DONE


def add(commands: Any) -> None:
    """Declare it."""
    report = commands.add_parser(
        "report",
        help="write the report of one or several run folders",
        description="Write the report from what run folders hold, whether they are finished or not.",
    )
    report.add_argument("runs", metavar="DIR", nargs="+", type=Path, help="run folders")
    report.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write it (default: report/ in the first folder)"
    )
    report.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.processors import cores
    from bakeoff.reports.page.report import write_report

    print(write_report(options.runs, options.out, processes=cores()))
    return DONE
