"""``bakeoff list``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from bakeoff import registry
from bakeoff.commands import DONE
from bakeoff.commands.arguments import add_plugins
from bakeoff.text import printable


def add(commands: Any) -> None:
    """Declare it."""
    lister = commands.add_parser(
        "list",
        help="what is installed",
        description="List what is installed, built in or by plugins, and where it comes from; imports none of it. A "
        "file given with --plugin is run.",
    )
    lister.add_argument("kind", choices=("algorithms", "tasks", "rewards", "suites"), help="what to list")
    lister.add_argument("--json", action="store_true", help="as JSON")
    add_plugins(lister)
    lister.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.plugins import loaded

    with loaded(options.plugins):
        entries: registry.Registry = registry.REGISTRIES[options.kind]
        rows = [
            {"name": name, "origin": entries.origin(name)}
            | ({} if (problem := entries.problem(name)) is None else {"problem": problem})
            for name in entries.names()
        ]
    for problem in registry.problems():
        print(printable(f"bakeoff: {problem}"), file=sys.stderr)
    if options.json:
        print(json.dumps(rows, indent=1))
        return DONE
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        shown = f"cannot be used: {row['problem']}" if "problem" in row else row["origin"]
        print(printable(f"{row['name']:<{width}}  {shown}"))
    return DONE
