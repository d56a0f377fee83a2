"""What an executor is: it runs jobs somewhere, and reports what happens to each as events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bakeoff.errors import BakeoffError


@dataclass
class Job:
    """A task for a worker."""

    title: str
    """Its title in messages."""
    message: Mapping[str, Any]
    """What the worker is sent: its kind (``job``), the run's ``folder``, and what that kind needs."""
    affinity: str
    """Jobs of equal affinity use the same loaded task, so they run on the same worker where possible."""
    timeout: float | None = None
    """Wall-clock seconds for one attempt."""
    retries: int = 0
    """Further attempts after a failure."""
    attempts: int = 0
    """Attempts so far."""


@dataclass(frozen=True)
class Event:
    """What happened to a job: ``started``, ``progress``, ``retry``, ``stopping``; in the end ``done``, ``failed``, ``stopped``."""

    kind: str
    job: Job
    details: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


class Interrupted(BakeoffError):  # noqa: N818 - Ctrl-C is no error
    """The run was interrupted; what was done is kept."""


class Executor(Protocol):
    """Runs jobs and returns when each has ended in some way."""

    threads: int
    """PyTorch's threads in each worker."""

    def run(self, jobs: Sequence[Job], listener: Listener) -> None:
        """Run all jobs.

        Raises:
            Interrupted: Ctrl-C; running cells have written a checkpoint.
        """

    def close(self) -> None:
        """End the workers."""
