"""``bakeoff run``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from bakeoff.commands import DONE, SOME_FAILED
from bakeoff.commands.arguments import add_executor, add_plugins, positive, ray_address
from bakeoff.text import printable


def add(commands: Any) -> None:
    """Declare it."""
    run = commands.add_parser(
        "run",
        help="run a suite, or finish one, and write its report",
        description="Run every cell (task x algorithm x seed) of a suite that is not done yet, then write the report.",
    )
    run.add_argument("suite", metavar="SUITE", help="a YAML file, or one of `bakeoff list suites`")
    run.add_argument("--out", metavar="DIR", type=Path, required=True, help="the run folder: created, or resumed")
    add_executor(run)
    run.add_argument("--seeds", metavar="N", type=positive, help="seeds 0 to N-1 instead of the suite's own")
    run.add_argument("--only", metavar="LABEL,..", type=labels, default=(), help="run these contestants only")
    run.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a value, such as budget.reward_queries=500 or algorithms.ppo.kl_coef=0.1; may be repeated",
    )
    add_plugins(run)
    run.add_argument(
        "--track",
        metavar="NAME,..",
        type=labels,
        default=(),
        help="show training while it runs: tensorboard, wandb, or module:Class of your own",
    )
    run.add_argument("--no-report", action="store_true", help="leave the report for later (`bakeoff report DIR`)")
    run.add_argument("--quiet", action="store_true", help="show no progress")
    run.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> int:
    """Run it; returns an exit code."""
    from bakeoff.benchmarks import trackers
    from bakeoff.benchmarks.progress import Display
    from bakeoff.benchmarks.run import run_suite
    from bakeoff.benchmarks.spec.reader import assigned
    from bakeoff.benchmarks.spec.validation import load_suite
    from bakeoff.plugins import loaded

    given = ray_address(options)
    given += [assigned("trackers", options.track)] if options.track else []
    with loaded(options.plugins) as plugins:
        suite = load_suite(options.suite, [*options.overrides, *given], options.seeds, check_tracker=trackers.check)
        with interruptible():
            outcome = run_suite(
                suite,
                options.out,
                workers=options.workers,
                only=options.only,
                display=Display(quiet=options.quiet),
                plugins=plugins,
                executor=options.executor,
            )
    for path, error in outcome.failed.items():
        print(printable(f"failed: {path}: {error}"), file=sys.stderr)
    print(f"run folder: {options.out}")
    if not options.no_report:
        from bakeoff.processors import cores
        from bakeoff.reports.page.report import write_report

        print(f"report:     {write_report([options.out], processes=cores())}")
    return SOME_FAILED if outcome.failed else DONE


def labels(text: str) -> tuple[str, ...]:
    """Commas separate labels, except inside the brackets of a sweep's label."""
    names, depth, current = [], 0, ""
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            names.append(current)
            current = ""
        else:
            current += character
    found = tuple(label.strip() for label in [*names, current] if label.strip())
    if not found:
        raise argparse.ArgumentTypeError("names nothing")
    return found


@contextmanager
def interruptible() -> Iterator[None]:
    """Take SIGTERM, a batch system's time limit, for Ctrl-C inside: checkpoints are kept."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
