"""Parts of a task's page that only some tasks or algorithms have, each made by a function in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


@dataclass(frozen=True)
class Section:
    """One part of a task's page, after the samples."""

    title: str
    html: Markup
    """What stands under the title, with all model text escaped. A template rendered with
    :func:`bakeoff.reports.page.html.environment` escapes it."""
    markdown: Sequence[str]
    """The same as lines of Markdown."""


SectionMaker = Callable[["RunData", str], Section | None]
"""Takes the results and a task; ``None`` where the task has nothing of the kind."""


def sections(results: RunData, task: str, makers: Sequence[SectionMaker]) -> list[Section]:
    """All parts that a task has beyond what every task has, in the order of the makers."""
    made = (make(results, task) for make in makers)
    return [section for section in made if section is not None]
