"""The two calls that a Python user needs: run a suite, load the results of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bakeoff.benchmarks.spec.schema import Suite
    from bakeoff.reports.results import Results


def run(
    suite: str | Path | Mapping[str, Any] | Suite,
    out: str | Path,
    *,
    workers: int | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
    plugins: Sequence[str | Path] = (),
    executor: str = "local",
) -> Results:
    """Run what is not done yet of a suite, and load the results.

    Cells that fail are in the results with their error; they do not stop the others.

    Args:
        suite: a registered name such as ``"quick"``, a YAML file, or the same as a mapping.
        out: the run folder; created, or resumed.
        workers: worker processes; by default one per core, or one where tasks are on a GPU.
        seeds: seeds 0 to ``seeds - 1`` instead of the suite's own.
        only: labels to run; all by default.
        overrides: values to change, by dotted key: ``{"budget.reward_queries": 500}``.
        progress: show progress on standard error.
        plugins: Python files whose algorithms, tasks and rewards the suite may name (see docs/plugins.md).
        executor: ``"local"``, or ``"ray"`` for a Ray cluster (the suite's key ``ray`` says which).

    Raises:
        NotFoundError: no suite, algorithm or task of that name.
        SuiteError: everything that is wrong with the suite.
        RunFolderError: the folder cannot be written, or belongs to another suite.
        UserError: a plugin that cannot be used.
    """
    from bakeoff.benchmarks import trackers
    from bakeoff.benchmarks.progress import Display
    from bakeoff.benchmarks.run import run_suite
    from bakeoff.benchmarks.spec.reader import assigned
    from bakeoff.benchmarks.spec.validation import load_suite
    from bakeoff.plugins import loaded

    plugins = [plugins] if isinstance(plugins, str | Path) else plugins
    assignments = [assigned(key, value) for key, value in (overrides or {}).items()]
    with loaded(plugins) as files:
        checked = load_suite(suite, assignments, seeds, check_tracker=trackers.check)
        given = f", plugins={[str(path) for path in plugins]!r}" if plugins else ""
        run_suite(
            checked,
            Path(out),
            workers=workers,
            only=only,
            display=Display(quiet=not progress),
            command=f"bakeoff.run({checked.name!r}, out={str(out)!r}{given})",
            plugins=files,
            executor=executor,
        )
    return load(out)


def load(*folders: str | Path) -> Results:
    """The results in one or several run folders, finished or not."""
    from bakeoff.reports.results import Results

    return Results.load([Path(folder) for folder in folders])
