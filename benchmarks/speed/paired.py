"""Timing rivals side by side: in turn, in one process, so that other load on the machine affects all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each round."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def take_turns(rivals: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 1) -> dict[str, Timing]:
    """Run every rival once a round, the order turned round each time."""
    for _ in range(warm_up):
        for run in rivals.values():
            run()
    wall: dict[str, list[float]] = {name: [] for name in rivals}
    cpu: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds):
        for name in list(rivals)[:: 1 if number % 2 else -1]:
            start, start_cpu = time.perf_counter(), time.process_time()
            rivals[name]()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    return {name: Timing(tuple(wall[name]), tuple(cpu[name])) for name in rivals}


def ratios(slow: Timing, fast: Timing) -> tuple[float, float, float]:
    """Median, least and greatest of slow / fast by wall clock over the rounds."""
    values = sorted(s / f for s, f in zip(slow.wall, fast.wall, strict=True))
    return statistics.median(values), values[0], values[-1]


def report(title: str, timings: Mapping[str, Timing], base: str) -> str:
    """A table in Markdown: seconds of each rival and how many times ``base``'s that is, with its spread."""
    lines = [
        f"{title} ({len(timings[base].wall)} rounds, in turn)",
        "",
        f"| | seconds (median) | CPU seconds | times {base} (median, range) |",
        "|---|---|---|---|",
    ]
    for name, timing in timings.items():
        middle, low, high = ratios(timing, timings[base])
        seconds, cpu = statistics.median(timing.wall), statistics.median(timing.cpu)
        lines.append(f"| {name} | {seconds:.3f} | {cpu:.3f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(lines) + "\n"
