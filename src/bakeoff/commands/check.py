"""``bakeoff check``."""

from __future__ import annotations

import argparse
from typing import Any

from bakeoff.commands import DONE, SOME_FAILED
from bakeoff.commands.arguments import add_plugins
from bakeoff.text import printable


def add(commands: Any) -> None:
    """Declare it."""
    from bakeoff.testing import CHECKS

    check = commands.add_parser(
        "check",
        help="does an algorithm keep the contract?",
        description="Run the contract suite on an algorithm and report what failed and why.",
        epilog="checks:\n" + "\n".join(f"  {name:<10} {what}" for name, what in CHECKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("algorithm", metavar="ALGORITHM", help="one of `bakeoff list algorithms`")
    add_plugins(check)
    check.add_argument(
        "--only", metavar="CHECK,..", default="", help="run these checks only (`learns` takes the longest)"
    )
    check.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.testing import check_algorithm

    only = [name.strip() for name in options.only.split(",") if name.strip()]
    checked = check_algorithm(options.algorithm, only=only, plugins=options.plugins)
    print(printable(str(checked)))
    return DONE if checked.passed else SOME_FAILED
