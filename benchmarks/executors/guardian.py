"""A process that outlives its parent by a moment, to end the workers that the parent could not end any more.

A killed parent runs no code. Its workers see that their input has ended, but a busy one may not come to it (a C function can hold
the interpreter's lock for hours), and none can end what a reward has started without ending itself first. So one small process per
executor is told which process groups exist, and kills them when its parent is gone.

It is its own module for :func:`main`, which imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

_POLL_SECONDS = 0.5
"""How often it looks whether its parent lives, for the case that another process holds the parent's end of the pipe open."""


class Guardian:
    """The process, as its parent sees it."""

    def __init__(self) -> None:
        """Start it."""
        self._popen = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            bufsize=0,
            start_new_session=True,  # what ends the parent's group, such as a terminal, must leave it
        )

    def watch(self, group: int) -> None:
        """Kill this process group when the parent is gone."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The group has ended."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End it; what it still watches is killed."""
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()
        self._popen.wait()

    def _tell(self, line: str) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):  # it was killed: the workers still see the end of their input
            self._popen.stdin.write(line.encode())


def main() -> None:
    """Read ``+GROUP`` and ``-GROUP`` lines until the parent is gone, then kill the groups that are left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent handles these
        signal.signal(number, signal.SIG_IGN)
    parent, pending = os.getppid(), b""
    groups: set[int] = set()
    while os.getppid() == parent:
        if not select.select([0], [], [], _POLL_SECONDS)[0]:
            continue
        chunk = os.read(0, 4096)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            (groups.add if line.startswith(b"+") else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
