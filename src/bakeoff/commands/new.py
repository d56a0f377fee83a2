"""``bakeoff new``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bakeoff.commands import DONE


def add(commands: Any) -> None:
    """Declare it."""
    new = commands.add_parser(
        "new",
        help="write a plugin package of your own",
        description="Write an installable package with one plugin that works as it is, a test of it, and a README.",
    )
    new.add_argument("kind", choices=("algorithm", "task", "reward"), help="what to make")
    new.add_argument("name", metavar="NAME", help="its name in suites, such as my_algorithm")
    new.add_argument("--out", metavar="DIR", type=Path, help="where to write it (default: bakeoff-NAME)")
    new.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.scaffold import new_package

    written = new_package(options.kind, options.name, options.out)
    for path in written:
        print(path)
    folder = written[0].parent
    if options.kind == "algorithm":
        print(f"next: bakeoff check {options.name} --plugin {written[0]}")
    else:
        print(f"next: bakeoff list {options.kind}s --plugin {written[0]}")
    print(f"then: pip install -e {folder}")
    return DONE
