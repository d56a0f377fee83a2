"""The part of a task's page about gold over distance from the reference: peaks, falls and fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from bakeoff.reports.analysis.gold_curves import HEAD, table_rows
from bakeoff.reports.page.html import environment
from bakeoff.reports.page.markdown import table
from bakeoff.reports.page.sections import Section

if TYPE_CHECKING:
    from bakeoff.reports.data.results import RunData


def gold_section(results: RunData, task: str) -> Section | None:
    """A table, one row per contestant; ``None`` where the task has no gold or no contestant left the reference."""
    rows = table_rows(results, task)
    if not rows:
        return None
    html = environment().get_template("gold.html").render(head=HEAD, rows=rows)
    return Section("Gold over distance from the reference", Markup(html), table(HEAD, rows))
