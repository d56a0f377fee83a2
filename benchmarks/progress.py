"""Progress while a suite runs: one live line per running cell on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from bakeoff.benchmarks.executors.base import Event
from bakeoff.text import printable

_PLAIN_EVERY = 15.0
_SHOWN = ("normalized_score", "objective", "proxy", "kl")


class Display:
    """Shows events; made for standard error, so that standard output stays clean."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        """Args:
        stream: where to write; standard error by default.
        quiet: show nothing.
        """
        patient = cast("TextIO", _Patient(stream or sys.stderr))
        self._console = Console(file=patient, quiet=quiet, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._eta = TimeRemainingColumn()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TaskProgressColumn(),
            "ETA",
            self._eta,
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            speed_estimate_period=math.inf,  # an update may take longer than rich's half minute
        )
        self._running: dict[int, Task] = {}
        self._total = self._ended = self._ended_here = self._failed = 0
        self._started = time.monotonic()

    @contextmanager
    def showing(self, total: int, done_before: int) -> Iterator[None]:
        """Inside, show progress over ``total`` cells, some of them done by an earlier run."""
        self._total, self._ended, self._started = total, done_before, time.monotonic()
        self._ended_here = self._failed = 0
        self.note(f"{total} cells" + (f", {done_before} done before" if done_before else ""))
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with Live(
            console=self._console, refresh_per_second=4, transient=True, get_renderable=self._render
        ) as self._live:
            yield
        self._live = None

    def note(self, text: str) -> None:
        """Print one plain line."""
        self._console.print(Text(printable(text)))

    def show(self, event: Event) -> None:
        """Show an event of a cell."""
        key, title = id(event.job), event.job.title
        if event.kind == "started":
            title += f" (attempt {event.job.attempts})" if event.job.attempts > 1 else ""
            self._progress.add_task(title, total=1.0, figures="", last_reported=time.monotonic())
            self._running[key] = self._progress.tasks[-1]
            if self._live is None:
                self.note(f"start  {title}")
        elif event.kind == "stopping":
            self.note(f"stops  {title} after its current update; press Ctrl-C again to end it at once")
        elif event.kind == "progress":
            self._show_progress(self._running[key], event.details)
        else:
            self._end(event, title, self._running.pop(key, None))

    def _show_progress(self, task: Task, details: Mapping[str, Any]) -> None:
        self._progress.update(task.id, completed=float(details["share"]), figures=_figures(details["metrics"]))
        if self._live is None and time.monotonic() - task.fields["last_reported"] >= _PLAIN_EVERY:
            task.fields["last_reported"] = time.monotonic()
            left, figures = self._eta.render(task), task.fields["figures"]
            self.note(f"       {task.description}: {task.completed:.0%}, ETA {left}{figures}")

    def _end(self, event: Event, title: str, task: Task | None) -> None:
        if task is not None:
            self._progress.remove_task(task.id)
        took, figures = (_duration(task.elapsed or 0.0), task.fields["figures"]) if task else ("", "")
        if event.kind == "retry":
            self.note(f"retry  {title}: {event.details['error']}")
            return
        if event.kind != "stopped":
            self._ended += 1
            self._ended_here += 1
        count = f"[{self._ended}/{self._total}] "
        if event.kind == "done":
            self.note(f"done   {count}{title} in {took}{figures}")
        elif event.kind == "failed":
            self._failed += 1
            self.note(f"FAILED {count}{title} after {took}: {event.details['error']}")
        else:
            self.note(f"paused {title}; resumes on the next run")

    def _render(self) -> RenderableType:
        failed = f", {self._failed} failed" if self._failed else ""
        so_far = _duration(time.monotonic() - self._started)
        total = Text(f"{self._ended}/{self._total} cells{failed}, {so_far} so far{self._remaining()}")
        return Group(self._progress.get_renderable(), total)

    def _remaining(self) -> str:
        running = sum(task.completed for task in list(self._running.values()))
        ended, left = self._ended_here + running, self._total - self._ended - running
        if ended < 0.5:
            return ""
        return f", about {_duration((time.monotonic() - self._started) * left / ended)} left"


class _Patient:
    """A stream whose reader may close it, or whose disk may be full: what cannot be written is lost, and the run continues."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _figures(metrics: Mapping[str, float]) -> str:
    shown = [f"{name} {metrics[name]:z.3f}" for name in _SHOWN if name in metrics]
    return f"  {', '.join(shown)}" if shown else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
