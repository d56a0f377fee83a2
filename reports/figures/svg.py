"""Figures as files and in the page: SVG with the same bytes each time and with colors that follow the page's theme."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from bakeoff import plain_files
from bakeoff.errors import UserError
from bakeoff.reports.figures.style import BASELINE, DPI, FAINT, INK, PALETTE, PAPER


def check_format(path: Path) -> None:
    """Refuse a file name whose ending is not a format that matplotlib writes.

    Raises:
        UserError: says which endings to use.
    """
    if path.suffix.lstrip(".").lower() not in Figure().canvas.get_supported_filetypes():
        raise UserError(f'figure file "{path}": no such format; end its name with .svg, .png or .pdf')


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; the same figure gives the same bytes (no date, fixed ids).

    Raises:
        UserError: no such format, or the file cannot be written.
    """
    check_format(path)
    kind = path.suffix.lower()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == ".svg":
            plain_files.replace(path, svg(figure).encode())
        elif kind == ".png":
            plain_files.replace(path, png(figure))
        else:
            buffer = io.BytesIO()
            date = {"CreationDate": None} if kind == ".pdf" else None
            figure.savefig(buffer, format=kind.lstrip("."), dpi=DPI, metadata=date)
            plain_files.replace(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"{path}: the figure cannot be written here ({error.strerror}); give another file") from error
    return path


def png(figure: Figure) -> bytes:
    """The figure as PNG on its own paper, without the name and version of the program that wrote it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The figure as SVG; text stays text, so it can be searched, restyled and read by screen readers."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bakeoff"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    shorter = re.sub(r"<[^>]+>", _round, buffer.getvalue())
    return re.sub(r"[ \t]+$", "", shorter, flags=re.MULTILINE)


def _round(tag: re.Match[str]) -> str:
    """Round coordinates to a hundredth of a point, which halves the file; text between tags is unchanged."""
    return re.sub(r"(\.\d\d)\d+", r"\1", tag.group())


_THEMED = {INK: "--ink", FAINT: "--grid", PAPER: "--paper", "#8a8a90": "--axis", BASELINE: "--baseline"} | {
    color: f"--c{index}" for index, color in enumerate(PALETTE)
}


def inline(svg_text: str, prefix: str, title: str) -> str:
    """An SVG prepared for the page: unique ids, colors that follow the page's theme, a title for screen readers."""
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
    """A figure's color as the page's theme variable."""
    return f"var({_THEMED[color]})" if color in _THEMED else color
