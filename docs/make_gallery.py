"""Draws docs/gallery.md and its pictures from run folders: ``python docs/make_gallery.py RUN...``.

The section of a suite whose run is not given stays as it is. Figures come from ``results.plot``, pictures of the page from
headless Chromium, where there is one.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bakeoff.errors import UserError
from bakeoff.reports import KINDS, Results, write_report
from bakeoff.reports.figures.svg import save
from bakeoff.reports.page.report import FIGURES

HERE = Path(__file__).parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SCREENS = {"desktop": (1280, 1500), "phone": (390, 1500)}
SCHEMES = {"light": 1, "dark": 0}
"""Blink's numbers of the preferred color scheme."""
HEAD = (
    "# Gallery\n\nEvery figure that a report can hold, and the page itself, from real runs. `python docs/make_gallery.py RUN...` "
    "draws this page; what a figure shows and how sure it is: [Reading a report](reports.md)."
)
SUITE = "## Suite "


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    runs = parser.parse_args().runs
    page, pictures = HERE / "gallery.md", HERE / "gallery"
    pictures.mkdir(exist_ok=True)
    sections = _sections(page.read_text(encoding="utf-8")) if page.exists() else {}
    for run in runs:
        for name in re.findall(r"\(gallery/([^)]+)\)", sections.get(run.name, "")):
            (pictures / name).unlink(missing_ok=True)
        sections[run.name] = "\n".join(_run(run, pictures)).rstrip()
    page.write_text("\n\n".join([HEAD, *sections.values()]) + "\n", encoding="utf-8")


def _sections(page: str) -> dict[str, str]:
    """The sections of a page, by the suite's name."""
    parts = page.split(SUITE)[1:]
    return {part.partition("\n")[0]: (SUITE + part).strip() for part in parts}


def _run(run: Path, pictures: Path) -> list[str]:
    results = Results.load(run)
    manifest = results.runs[0].manifest
    machine = manifest.get("machine", {})
    cells = results.cells
    done = int((cells["status"] == "done").sum())
    lines = [
        f"{SUITE}{run.name}",
        "",
        f"{done} of {len(cells)} cells done, {cells['seed'].nunique()} seeds, {machine.get('threads_per_cell')} thread per cell "
        f"on {machine.get('processor')}, bakeoff {manifest.get('bakeoff')}.",
        "",
    ]
    if CHROMIUM is not None:
        lines += _screens(write_report(results, Path(tempfile.mkdtemp()) / "report"), run.name, pictures)
    for kind, shows in KINDS.items():
        try:
            figure = results.plot(kind)
        except UserError:
            continue  # nothing of the kind in this run
        title, caption = FIGURES.get(kind, (kind, shows))
        file = save(figure, pictures / f"{run.name}-{kind}.png")
        lines += [f"### {title}: `--kind {kind}`", "", f"![{title} of the suite {run.name}](gallery/{file.name})", ""]
        lines += [caption, ""]
    return lines


def _screens(page: Path, name: str, pictures: Path) -> list[str]:
    lines = ["### The page", ""]
    for screen, size in SCREENS.items():
        for scheme in SCHEMES:
            file = pictures / f"{name}-page-{screen}-{scheme}.png"
            photograph(page, file, size, scheme)
            lines += [
                f"![First screen of the report, {screen}, {scheme}](gallery/{file.name}){{ width={size[0] // 2} }}"
            ]
    return [*lines, ""]


def photograph(page: Path, file: Path, size: tuple[int, int], scheme: str, anchor: str = "") -> None:
    """A picture of a page; it stands in a frame, since a browser's window cannot be as narrow as a phone."""
    width, height = size
    frame = file.with_suffix(".html")
    style = f"margin:0;border:0;width:{width}px;height:{height}px;display:block"
    frame.write_text(
        f'<!doctype html><meta name="color-scheme" content="light dark"><body style="margin:0">'
        f'<iframe src="{page.resolve().as_uri()}{anchor}" style="{style}"></iframe>'
    )
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--hide-scrollbars", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
    command += [f"--window-size={max(width, 600)},{height}", f"--screenshot={file.resolve()}", frame.resolve().as_uri()]
    subprocess.run(command, capture_output=True, timeout=300, check=True)
    frame.unlink()
    if width < 600:
        _crop(file, width)


def _crop(file: Path, width: int) -> None:
    from matplotlib import image

    image.imsave(file, image.imread(file)[:, :width])


if __name__ == "__main__":
    main()
