"""``bakeoff tune``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from bakeoff.commands import DONE
from bakeoff.commands.arguments import add_executor, add_plugins, positive, ray_address
from bakeoff.commands.run import interruptible


def add(commands: Any) -> None:
    """Declare it."""
    tune = commands.add_parser(
        "tune",
        help="search settings for every algorithm of a suite, the same number of trials for each",
        description="Try settings for every algorithm of a suite on seeds that the suite does not use, and write the suite "
        "with the best of them to DIR/tuned.yaml. The same command resumes where it was interrupted.",
    )
    tune.add_argument("suite", metavar="SUITE", help="a YAML file, or one of `bakeoff list suites`")
    tune.add_argument("--out", metavar="DIR", type=Path, required=True, help="where trials and the tuned suite go")
    tune.add_argument("--trials", metavar="N", type=positive, help="settings tried for each algorithm (default: 16)")
    tune.add_argument("--seeds", metavar="N", type=positive, help="seeds of each trial (default: 1)")
    add_executor(tune)
    tune.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a value of the suite, such as tune.budget.reward_queries=500; may be repeated",
    )
    add_plugins(tune)
    tune.add_argument("--quiet", action="store_true", help="show no progress")
    tune.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.benchmarks import trackers
    from bakeoff.benchmarks.progress import Display
    from bakeoff.benchmarks.spec.validation import load_suite
    from bakeoff.benchmarks.tuning.search import tune
    from bakeoff.plugins import loaded

    with loaded(options.plugins) as plugins:
        suite = load_suite(options.suite, [*options.overrides, *ray_address(options)], check_tracker=trackers.check)
        with interruptible():
            path = tune(
                suite,
                options.out,
                trials=options.trials,
                seeds=options.seeds,
                workers=options.workers,
                executor=options.executor,
                display=Display(quiet=options.quiet),
                plugins=plugins,
            )
    with_plugins = [part for plugin in options.plugins for part in ("--plugin", str(plugin))]
    print(f"tuned suite: {path}")
    print(f"run it:      {shlex.join(['bakeoff', 'run', str(path), '--out', str(options.out / 'run'), *with_plugins])}")
    return DONE
