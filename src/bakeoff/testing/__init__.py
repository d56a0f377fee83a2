"""The contract suite: what every algorithm must do, built in or from a plugin.

::

    from bakeoff.testing import check_algorithm

    def test_contract():
        checked = check_algorithm("my_algorithm")
        assert checked.passed, str(checked)

``bakeoff check NAME`` prints the same. The checks themselves are in :mod:`bakeoff.testing.checks`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bakeoff.errors import NotFoundError

if TYPE_CHECKING:
    from bakeoff.algos.core.algorithm import Algorithm
    from bakeoff.envs.tasks.base import Task

__all__ = ["CHECKS", "Check", "Checked", "check_algorithm"]

CHECKS: Mapping[str, str] = {
    "settings": "every setting is documented, and survives JSON",
    "starts": "before its first update it samples as the reference",
    "stays": "equal rewards teach it nothing",
    "repeats": "the same seed gives the same trace, another seed another",
    "reference": "the reference stays as it is, and every trained weight moves",
    "resumes": "a killed run resumes bit for bit from its checkpoint",
    "meter": "the meter counts everything spent, and metrics are finite",
    "saves": "what it saves loads in plain transformers, and is no pickle",
    "budget": "the last update that is paid for moves weights, and no reward query exceeds the limit",
    "learns": "it learns on the exact task",
}
"""Every check's name and what it verifies, in the order in which they run; `learns` takes the longest."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    """One of :data:`CHECKS`."""
    outcome: Literal["passed", "failed", "skipped"]
    """How it ended; a check is skipped where the algorithm declares that it does not support this."""
    reason: str
    """Why it failed or was skipped, in one line; empty where it passed."""
    seconds: float
    """Seconds it took."""


@dataclass(frozen=True)
class Checked:
    """The results of all checks of one algorithm."""

    algorithm: str
    """Its name."""
    checks: tuple[Check, ...]
    """One result for each requested check."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def __str__(self) -> str:
        verdict = "keeps the contract" if self.passed else "breaks the contract"
        if all(check.outcome == "skipped" for check in self.checks):
            verdict = "was not checked"
        lines = [f"{self.algorithm}: {verdict}"]
        for check in self.checks:
            word = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}[check.outcome]
            lines.append(f"  {word:<8}{check.name:<10}{check.reason or CHECKS[check.name]}")
        return "\n".join(lines)


def check_algorithm(
    algorithm: str | type[Algorithm],
    *,
    settings: Mapping[str, Any] | None = None,
    only: Iterable[str] = (),
    task: Task | None = None,
    plugins: Iterable[str | Path] = (),
) -> Checked:
    """Run the contract suite.

    Nothing is installed, downloaded or kept; it takes between a few seconds and a minute on one core.

    Args:
        algorithm: a registered name, or the class itself.
        settings: values for its ``Config``; those of ``example_settings`` where none are given.
        only: names of checks; all by default.
        task: an enumerable task; ``exact``, built anew, by default.
        plugins: files whose algorithms are registered while this runs.

    Raises:
        NotFoundError: no algorithm, or no check, of that name.
        UserError: the algorithm or a plugin cannot be loaded, or it is no subclass of ``Algorithm``.
    """
    from bakeoff.plugins import loaded
    from bakeoff.testing.subject import Subject, error_place

    chosen = list(only) or list(CHECKS)
    for name in chosen:
        if name not in CHECKS:
            raise NotFoundError("check", name, CHECKS)
    with loaded(list(plugins)):
        subject = Subject.of(algorithm, settings, task)
        outcome: Literal["failed", "skipped"] = "skipped"
        try:
            missing = subject.kind.unavailable()
        except Exception as error:
            outcome, missing = "failed", f"its unavailable() raised {error_place(error, subject.kind)}"
        if missing is not None:
            return Checked(subject.name, tuple(Check(name, outcome, missing, 0.0) for name in chosen))
        return Checked(subject.name, tuple(_run(name, subject) for name in chosen))


def _run(name: str, subject: Any) -> Check:
    from bakeoff.testing import checks
    from bakeoff.testing.subject import ContractViolation, NotSupported, error_place

    start = time.perf_counter()
    outcome: Literal["passed", "failed", "skipped"] = "passed"
    reason = ""
    try:
        checks.BY_NAME[name](subject)
    except ContractViolation as broken:
        outcome, reason = "failed", str(broken)
    except NotSupported as broken:
        outcome, reason = "skipped", str(broken)
    except (Exception, SystemExit) as error:  # the algorithm's own
        outcome, reason = "failed", error_place(error, subject.kind)
    return Check(name, outcome, reason, time.perf_counter() - start)
