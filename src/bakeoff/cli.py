"""The command line: ``bakeoff run | report | list | sample``.

Exit codes: 0 all well, 1 some cells failed, 2 bad input (one line a problem on standard error), 130 interrupted.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bakeoff import registry
from bakeoff.errors import BakeoffError
from bakeoff.terminal import printable

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_EXAMPLES = """examples:
  bakeoff list suites
  bakeoff run quick --out runs/quick
  bakeoff run my_suite.yaml --out runs/mine --only ppo,best_of_n --set budget.reward_queries=5000
  bakeoff report runs/quick runs/mine --out runs/both
  bakeoff sample runs/quick/cells/reviews/ppo/seed-0 --prompt "The acting is" -n 4

Running the same command again finishes what is missing in its folder.
exit codes: 0 all cells done; 1 some failed (the report is made all the same); 2 bad input; 130 interrupted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except BakeoffError as error:
        from_interrupt = type(error).__name__ == "Interrupted"
        print(printable(f"bakeoff: {error}"), file=sys.stderr)
        return INTERRUPTED if from_interrupt else BAD_INPUT
    except KeyboardInterrupt:
        print("bakeoff: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `bakeoff list | head`
        sys.stderr.close()
        return DONE
    return code


def _parser() -> argparse.ArgumentParser:
    from bakeoff import __version__

    parser = argparse.ArgumentParser(
        prog="bakeoff",
        description="Find out which RL algorithm aligns your language model best: your prompts, reward and budget.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bakeoff {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_report(commands)
    _add_list(commands)
    _add_sample(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run a suite, or finish one, and write its report",
        description="Run every cell (task x algorithm x seed) of a suite that is not done yet, then write the report.",
    )
    run.add_argument("suite", metavar="SUITE", help="a YAML file, or one of `bakeoff list suites`")
    run.add_argument("--out", metavar="DIR", type=Path, required=True, help="the run folder: made, or gone on with")
    run.add_argument("--workers", metavar="N", type=_positive, help="worker processes (default: one a core)")
    run.add_argument("--seeds", metavar="N", type=_positive, help="seeds 0 to N-1 instead of the suite's own")
    run.add_argument("--only", metavar="LABEL,..", type=_labels, default=(), help="run these contestants only")
    run.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a value, such as budget.reward_queries=500 or algorithms.ppo.kl_coef=0.1; may be repeated",
    )
    run.add_argument("--no-report", action="store_true", help="leave the report for later (`bakeoff report DIR`)")
    run.add_argument("--quiet", action="store_true", help="show no progress")
    run.set_defaults(command=_run)


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write the report of one or several run folders",
        description="Write the report from what run folders hold, whether they are finished or not.",
    )
    report.add_argument("runs", metavar="DIR", nargs="+", type=Path, help="run folders")
    report.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write it (default: report/ in the first folder)"
    )
    report.set_defaults(command=_report)


def _add_list(commands: Any) -> None:
    lister = commands.add_parser(
        "list",
        help="what is installed",
        description="List what is installed, built in or by plugins, and where it comes from; imports none of it.",
    )
    lister.add_argument("kind", choices=("algorithms", "tasks", "rewards", "suites"), help="what to list")
    lister.add_argument("--json", action="store_true", help="as JSON")
    lister.set_defaults(command=_list)


def _add_sample(commands: Any) -> None:
    sample = commands.add_parser(
        "sample",
        help="let a trained model of a finished cell answer a prompt",
        description="Sample completions from the model that a finished cell has saved.",
    )
    sample.add_argument("cell", metavar="CELL_DIR", type=Path, help="such as RUN/cells/reviews/ppo/seed-0")
    sample.add_argument("--prompt", metavar="TEXT", required=True, help="what to complete")
    sample.add_argument("-n", metavar="N", type=_positive, default=1, dest="count", help="completions (default: 1)")
    sample.add_argument("--seed", metavar="K", type=int, default=0, help="seed of the sampling (default: 0)")
    sample.add_argument("--temperature", metavar="X", type=float, default=1.0, help="below 1 sharpens (default: 1)")
    sample.add_argument("--top-k", metavar="K", type=int, default=0, help="keep the K likeliest tokens (default: all)")
    sample.add_argument("--top-p", metavar="P", type=float, default=1.0, help="keep this much probability (default: 1)")
    sample.add_argument("--max-new-tokens", metavar="N", type=_positive, help="length limit (default: the task's)")
    sample.set_defaults(command=_sample)


def _run(options: argparse.Namespace) -> int:
    from bakeoff.benchmarks.progress import Display
    from bakeoff.benchmarks.run import run_suite
    from bakeoff.benchmarks.suite_checks import load_suite

    suite = load_suite(options.suite, options.overrides, options.seeds)
    before = signal.signal(signal.SIGTERM, _interrupt)  # a batch system's time limit: keep checkpoints, as for Ctrl-C
    try:
        outcome = run_suite(
            suite, options.out, workers=options.workers, only=options.only, display=Display(quiet=options.quiet)
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    for path, error in outcome.failed.items():
        print(printable(f"failed: {path}: {error}"), file=sys.stderr)
    print(f"run folder: {options.out}")
    if not options.no_report:
        from bakeoff.reports.report import write_report

        print(f"report:     {write_report([options.out])}")
    return SOME_FAILED if outcome.failed else DONE


def _report(options: argparse.Namespace) -> int:
    from bakeoff.reports.report import write_report

    print(write_report(options.runs, options.out))
    return DONE


def _list(options: argparse.Namespace) -> int:
    entries: registry.Registry = getattr(registry, options.kind)
    rows = [{"name": name, "origin": entries.origin(name)} for name in entries.names()]
    if options.json:
        print(json.dumps(rows, indent=1))
        return DONE
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(printable(f"{row['name']:<{width}}  {row['origin']}"))
    return DONE


def _sample(options: argparse.Namespace) -> int:
    from bakeoff.benchmarks.sampling import sample_cell

    found = sample_cell(
        options.cell,
        options.prompt,
        options.count,
        seed=options.seed,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        max_new_tokens=options.max_new_tokens,
    )
    for note in found.notes:
        print(printable(f"note: this contestant {note}"), file=sys.stderr)
    for text in found.texts:
        print(printable(options.prompt + text))
    return DONE


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _labels(text: str) -> tuple[str, ...]:
    """Commas separate labels, except inside the brackets of a sweep's label."""
    labels, depth, current = [], 0, ""
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            labels.append(current)
            current = ""
        else:
            current += character
    return tuple(label.strip() for label in [*labels, current] if label.strip())


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
