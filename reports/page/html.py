"""Page data into HTML: templates that escape everything, and the policy under which a browser shows the page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from bakeoff.reports.analysis.verdict import answers
from bakeoff.reports.data.text import count, number, one_line, visible
from bakeoff.reports.page.page import COLUMN_TITLES, COST_NOTE, COST_TITLES
from bakeoff.reports.statistics.leaderboard import leaderboard, records

if TYPE_CHECKING:
    from bakeoff.reports.analysis.samples import Token
    from bakeoff.reports.data.results import RunData
    from bakeoff.reports.page.page import Page


def render(page: Page) -> str:
    """The page as one self-contained HTML document."""
    folder = resources.files("bakeoff.reports.page").joinpath("templates")
    css, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = environment().get_template("index.html")
    return template.render(
        page=page,
        css=Markup(css),
        script=Markup(script),
        policy=Markup(policy),
        titles=COLUMN_TITLES | COST_TITLES,
        cost_note=COST_NOTE,
    )


def leaderboard_html(results: RunData) -> str:
    """The answers and the leaderboard alone, for notebooks."""
    board = leaderboard(results)
    found = answers(results, board) if len(board) else []
    return (
        environment()
        .get_template("notebook.html")
        .render(answers=found, board=records(board), cells=records(results.cells))
    )


def environment() -> jinja2.Environment:
    """Autoescape for everything, and no invisible character comes out of any expression."""
    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"number": number, "count": count, "one_line": one_line, "colored": colored}
    return env


def colored(tokens: Sequence[Token]) -> Markup:
    """Tokens colored by how far they are from the reference; a stretch that is near it stays plain text."""
    parts: list[str] = []
    for token in tokens:
        text = str(escape(visible(token.text)))
        if token.special:
            text = f'<span class="end">{text}</span>'
        if token.level:
            side = "u" if token.level > 0 else "d"
            parts.append(f'<span class="{side}{abs(token.level)}" title="{token.ratio:+.2f}">{text}</span>')
        else:
            parts.append(text)
    return Markup("".join(parts))


def _source(name: str) -> str:
    return resources.files("bakeoff.reports.page").joinpath("templates", Path(name).name).read_text(encoding="utf-8")


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
