"""Figures into files and into the page: SVG whose bytes repeat, and whose colours follow the page's theme."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from bakeoff.errors import UserError
from bakeoff.reports.figures.style import BASELINE, FAINT, INK, PALETTE, PAPER


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; the same figure gives the same bytes (SVG: no date, fixed ids)."""
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in formats:
        raise UserError(f'figure file "{path}": no such format; end its name with .svg, .png or .pdf')
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".svg":
        path.write_text(svg(figure), encoding="utf-8")
    else:
        figure.savefig(path, dpi=160, metadata={"CreationDate": None} if path.suffix.lower() == ".pdf" else None)
    return path


def svg(figure: Figure) -> str:
    """The figure as SVG text; type stays type, so it can be searched, read aloud and restyled."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bakeoff"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    return re.sub(r"[ \t]+$", "", buffer.getvalue(), flags=re.MULTILINE)


_THEMED = {INK: "--ink", FAINT: "--grid", PAPER: "--paper", "#8a8a90": "--axis", BASELINE: "--baseline"} | {
    color: f"--c{index}" for index, color in enumerate(PALETTE)
}


def inline(svg_text: str, prefix: str, title: str) -> str:
    """An SVG file's text made fit for a page: own ids, colours that follow the page's theme, a title to be read aloud.
    An SVG file's text made fit for a page: own ids, colours that follow the page's theme, a title to be read aloud.
    """
    body = svg_text[svg_text.index("<svg") :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)  # would style the page
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", body)
    body = re.sub(
        r"#[0-9a-f]{6}\b", lambda m: f"var({_THEMED[m.group()]})" if m.group() in _THEMED else m.group(), body
    )
    body = re.sub(r"""font: ([^;"]*?)'DejaVu Sans'[^;"]*""", r"font: \1'DejaVu Sans', Verdana, sans-serif", body)
    view = re.search(r'viewBox="([^"]+)"', body)
    box = view.group(1) if view else "0 0 500 300"
    width = box.split()[2]
    head = f'<svg viewBox="{box}" role="img" aria-label="{title}" style="max-width:{1.12 * float(width):.0f}pt">'
    return re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)


def css_color(color: str) -> str:
    """A figure's colour as the page's theme variable."""
    return f"var({_THEMED[color]})" if color in _THEMED else color
