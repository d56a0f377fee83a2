"""Arguments that several commands share."""

import argparse
from pathlib import Path
from typing import Any

from bakeoff.errors import UserError


def positive(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def add_plugins(parser: Any) -> None:
    """``--plugin FILE.py``, which may be repeated; ``options.plugins`` is what :func:`bakeoff.plugins.loaded` takes."""
    parser.add_argument(
        "--plugin",
        metavar="FILE.py",
        action="append",
        default=[],
        type=Path,
        dest="plugins",
        help="load the algorithms, tasks and rewards of this file; may be repeated",
    )


def add_executor(parser: Any) -> None:
    """The arguments that choose where cells run: ``--executor``, ``--ray-address``, ``--workers``."""
    parser.add_argument(
        "--executor",
        metavar="NAME",
        default="local",
        help="local: processes on this machine; ray: tasks of a Ray cluster (default: local)",
    )
    parser.add_argument(
        "--ray-address", metavar="ADDR", help="a running cluster, such as auto; without it one is started here"
    )
    parser.add_argument(
        "--workers", metavar="N", type=positive, help="cells at once (default: one per core; one on a GPU)"
    )


def ray_address(options: argparse.Namespace) -> list[str]:
    """``--ray-address`` as changes to a suite.

    Raises:
        UserError: cells run elsewhere.
    """
    if options.ray_address is not None and options.executor != "ray":
        raise UserError("--ray-address is Ray's; add --executor ray, or leave it out")
    from bakeoff.benchmarks.spec.reader import assigned

    return [] if options.ray_address is None else [assigned("ray.address", options.ray_address)]
