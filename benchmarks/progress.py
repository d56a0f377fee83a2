"""What a person sees while a suite runs: one live line a running cell on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bakeoff.benchmarks.executors.local import Event
from bakeoff.terminal import printable

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
        self._running: dict[int, _Line] = {}
        self._total = self._ended = self._ended_here = self._failed = 0
        self._started = time.monotonic()

    @contextmanager
    def showing(self, total: int, done_before: int) -> Iterator[None]:
        """Show progress inside; ``total`` cells, some of them done by an earlier run."""
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
        """One plain line."""
        self._console.print(Text(printable(text)))

    def show(self, event: Event) -> None:
        """Show an event of a cell."""
        key, title = id(event.job), event.job.title
        if event.kind == "started":
            again = f" (attempt {event.job.attempts})" if event.job.attempts > 1 else ""
            self._running[key] = _Line(title + again)
            if self._live is None:
                self.note(f"start  {title}{again}")
        elif event.kind == "stopping":
            self.note(f"stops  {title} after its current update; interrupt again to end it at once")
        elif event.kind == "progress":
            self._progress(self._running[key], event.details)
        else:
            line = self._running.pop(key, None)
            self._end(event, title, line)

    def _progress(self, line: _Line, details: Mapping[str, Any]) -> None:
        line.update(details)
        if self._live is None and time.monotonic() - line.last_reported >= _PLAIN_EVERY:
            line.last_reported = time.monotonic()
            self.note(f"       {line.title}: {line.share:.0%}, {line.eta}{_figures(line.metrics)}")

    def _end(self, event: Event, title: str, line: _Line | None) -> None:
        took = _duration(time.monotonic() - line.started) if line else ""
        if event.kind == "retry":
            self.note(f"retry  {title}: {event.details['error']}")
            return
        if event.kind != "stopped":
            self._ended += 1
            self._ended_here += 1
        count = f"[{self._ended}/{self._total}] "
        if event.kind == "done":
            self.note(f"done   {count}{title} in {took}{_figures(line.metrics if line else {})}")
        elif event.kind == "failed":
            self._failed += 1
            self.note(f"FAILED {count}{title} after {took}: {event.details['error']}")
        else:
            self.note(f"kept   {title}: goes on the next time")

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for line in list(self._running.values()):
            bar = ProgressBar(total=1.0, completed=line.share, width=24)
            table.add_row(
                Text(line.title), bar, Text(f"{line.share:4.0%}"), Text(line.eta), Text(_figures(line.metrics)[2:])
            )
        failed = f", {self._failed} failed" if self._failed else ""
        so_far = _duration(time.monotonic() - self._started)
        return Group(table, Text(f"{self._ended}/{self._total} cells{failed}, {so_far} so far{self._remaining()}"))

    def _remaining(self) -> str:
        ended = self._ended_here + sum(line.share for line in self._running.values())
        left = self._total - self._ended - sum(line.share for line in self._running.values())
        if ended < 0.5:
            return ""
        return f", about {_duration((time.monotonic() - self._started) * left / ended)} left"


class _Patient:
    """A stream whose reader may leave, or whose disk may be full: what it does not take is lost, and the run goes on."""

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


class _Line:
    """One running cell."""

    def __init__(self, title: str) -> None:
        self.title, self.share = title, 0.0
        self.metrics: Mapping[str, float] = {}
        self.started = self.last_reported = time.monotonic()
        self._first: tuple[float, float] | None = None

    def update(self, details: Mapping[str, Any]) -> None:
        self.share, self.metrics = float(details["share"]), details["metrics"]
        if self._first is None:  # a resumed cell begins well above 0
            self._first = (time.monotonic(), self.share)

    @property
    def eta(self) -> str:
        """How long it has still to go, from the pace since its first sign of life."""
        if self._first is None or self.share <= self._first[1]:
            return "ETA ..."
        pace = (time.monotonic() - self._first[0]) / (self.share - self._first[1])
        return f"ETA {_duration(pace * (1 - self.share))}"


def _figures(metrics: Mapping[str, float]) -> str:
    shown = [f"{name} {metrics[name]:.3f}" for name in _SHOWN if name in metrics]
    return f"  {', '.join(shown)}" if shown else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
