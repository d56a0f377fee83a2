"""A made-up source distribution with the layout of the real one: nothing here comes from the corpus."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

MOVIE = [
    (3.0, "The film is a Wonder of caf\u00e9 light    and song."),
    (-3.0, "The film is a bore ... and far too long!!"),
    (0.1, "The film is there, and that is ''all''."),
    (1.5, "The film is fine for a wet night."),
    (-1.2, "A plot with &amp; without holes."),
    (2.0, "Too short"),
]
GADGET = [
    ("1_1", 2.5, "the camera is a joy to hold."),
    ("1_2", -2.5, "the camera is broken, avoid it."),
    ("2_1", 0.0, "it came in a box."),
]


def table(rows: list[tuple[str, float, str]]) -> str:
    return "".join(f"{identity}\t{rating}\t{text}\n" for identity, rating, text in rows)


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def make_sdist(tmp_path: Path) -> Callable[..., Path]:
    """Writes a source distribution; keyword arguments replace the text of a table, None leaves it out."""

    def make(**changes: str | None) -> Path:
        tables = {
            "movie": table([(str(i), rating, text) for i, (rating, text) in enumerate(MOVIE, start=1)]),
            "amazon": table(GADGET),
        } | changes
        inner = {
            f"hutto_ICWSM_2014/{name}ReviewSnippets_GroundTruth.txt": text.encode()
            for name, text in tables.items()
            if text is not None
        }
        path = tmp_path / "made-up.tar.gz"
        path.write_bytes(tar_of({"made-up/additional_resources/hutto_ICWSM_2014.tar.gz": tar_of(inner)}))
        return path

    return make
