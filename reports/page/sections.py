"""Parts of a task's page that only some tasks or algorithms have, each made by a function in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from bakeoff.reports.data.results import Results


@dataclass(frozen=True)
class Section:
    """One part of a task's page, after the samples."""

    title: str
    html: Markup
    """What stands under the title. Whoever makes it has escaped all model text: render a template of this package with
    :func:`bakeoff.reports.page.html.environment`, which does."""
    markdown: Sequence[str]
    """The same as lines of Markdown."""


SectionMaker = Callable[["Results", str], Section | None]
"""Takes the results and a task; ``None`` where the task has nothing of the kind."""


def sections(results: Results, task: str) -> list[Section]:
    """All parts that a task has beyond what every task has, in the order of the page."""
    made = (make(results, task) for make in _makers())
    return [section for section in made if section is not None]


def _makers() -> Sequence[SectionMaker]:
    """Add yours here."""
    from bakeoff.reports.page.gold_section import gold_section

    return (gold_section,)
