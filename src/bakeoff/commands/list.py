"""``bakeoff list``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from bakeoff import registry
from bakeoff.commands import DONE
from bakeoff.terminal import printable


def add(commands: Any) -> None:
    """Declare it."""
    lister = commands.add_parser(
        "list",
        help="what is installed",
        description="List what is installed, built in or by plugins, and where it comes from; imports none of it.",
    )
    lister.add_argument("kind", choices=("algorithms", "tasks", "rewards", "suites"), help="what to list")
    lister.add_argument("--json", action="store_true", help="as JSON")
    lister.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    entries: registry.Registry = getattr(registry, options.kind)
    rows = [{"name": name, "origin": entries.origin(name)} for name in entries.names()]
    if options.json:
        print(json.dumps(rows, indent=1))
        return DONE
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(printable(f"{row['name']:<{width}}  {row['origin']}"))
    return DONE
