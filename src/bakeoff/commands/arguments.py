"""What several commands read from an argument."""

import argparse
from pathlib import Path
from typing import Any


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
        help="take in the algorithms, tasks and rewards of this file; may be repeated",
    )
