"""The command line: each command is a file in ``bakeoff.commands``.

Exit codes: 0 all well, 1 some cells failed, 2 bad input (one line per problem on standard error), 130 interrupted.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module

from bakeoff.commands import BAD_INPUT, DONE, INTERRUPTED
from bakeoff.errors import BakeoffError
from bakeoff.text import printable

COMMANDS = ("run", "report", "plot", "list", "sample", "tune", "plan", "export", "check", "new", "train_reward")
"""Each is a file in ``bakeoff.commands``, in the order in which ``--help`` shows them."""

_EXAMPLES = """examples:
  bakeoff list suites
  bakeoff run quick --out runs/quick
  bakeoff run my_suite.yaml --out runs/mine --only ppo,best_of_n --set budget.reward_queries=5000
  bakeoff report runs/quick runs/mine --out runs/both
  bakeoff plot runs/quick --kind frontier --out frontier.png
  bakeoff plan quick --pilot runs/quick --difference 0.05
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
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        print(f"bakeoff: standard output: {error.strerror}; the run's results so far are kept", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        from bakeoff import registry

        damaged = registry.problems()
        if not damaged:
            raise
        # Other libraries, pydantic and torch among them, read all installed entry points and fail at damaged ones.
        reason = " ".join(str(error).split())
        print(printable("\n".join(f"bakeoff: {problem}" for problem in damaged)), file=sys.stderr)
        print(printable(f"bakeoff: possible cause: {type(error).__name__}: {reason}"), file=sys.stderr)
        return BAD_INPUT
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
    for command in COMMANDS:
        import_module(f"bakeoff.commands.{command}").add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
