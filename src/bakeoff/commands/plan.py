"""``bakeoff plan``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from bakeoff.commands import DONE
from bakeoff.commands.arguments import add_plugins
from bakeoff.commands.run import labels
from bakeoff.text import printable


def add(commands: Any) -> None:
    """Declare it."""
    plan = commands.add_parser(
        "plan",
        help="how many seeds and completions find a difference, and what they cost",
        description="From a finished run of a suite, its pilot: how many seeds and evaluation completions find a difference "
        "between two contestants with 80 % power, and what they cost.",
    )
    plan.add_argument("suite", metavar="SUITE", help="a YAML file, or one of `bakeoff list suites`")
    plan.add_argument(
        "--pilot", metavar="RUN", type=Path, required=True, help="a run folder of this suite with two or more seeds"
    )
    plan.add_argument(
        "--difference", metavar="D", type=float, required=True, help="what to find, in units of the ranked score"
    )
    plan.add_argument("--task", metavar="NAME,..", type=labels, default=(), help="plan for these tasks only")
    plan.add_argument("--only", metavar="LABEL,..", type=labels, default=(), help="compare these contestants only")
    plan.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a value of the suite, such as budget.reward_queries=500; may be repeated",
    )
    add_plugins(plan)
    plan.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.benchmarks.pilot import planned_cells
    from bakeoff.benchmarks.spec.validation import load_suite
    from bakeoff.plugins import loaded
    from bakeoff.reports import Results
    from bakeoff.reports.analysis.plan_text import plan_lines
    from bakeoff.reports.analysis.planning import check_difference, plan

    check_difference(options.difference)
    with loaded(options.plugins):
        suite = load_suite(options.suite, options.overrides)
    results = Results.load(options.pilot)
    wanted = planned_cells(suite, results.runs[0].manifest, str(options.pilot), options.task, options.only)
    found = plan(results, wanted, options.difference)
    print(printable("\n".join(plan_lines(found))))
    if not options.task:
        completions = found.cheapest.completions
        change = completions and completions != suite.evaluate.completions
        print(f"run it: {printable(_command(options, found.cheapest.seeds, completions if change else 0))}")
    return DONE


def _command(options: argparse.Namespace, seeds: int, completions: int) -> str:
    only = ["--only", ",".join(options.only)] if options.only else []
    changes = [*options.overrides, *([f"evaluate.completions={completions}"] if completions else [])]
    sets = [part for change in changes for part in ("--set", change)]
    plugins = [part for plugin in options.plugins for part in ("--plugin", str(plugin))]
    return shlex.join(["bakeoff", "run", options.suite, "--out", "DIR", "--seeds", str(seeds), *only, *sets, *plugins])
