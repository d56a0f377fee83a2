"""Sources of preference pairs: lines of a file, or rows of an object, each with its place for messages."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bakeoff.errors import PreferenceError

_GZIP = b"\x1f\x8b"
_MARKS = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"ARROW1": "an Arrow file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
}


def numbered_rows(source: str | Path | Iterable[Any]) -> tuple[str, Iterator[tuple[str, Any]]]:
    """A name for messages, and each row with its place; a line that is no JSON is given as a :class:`Broken`.

    Raises:
        PreferenceError: no such file, or a source that is not rows at all.
    """
    if isinstance(source, str | Path):
        return f"pairs file {source}", _lines(Path(source))
    if isinstance(source, Mapping):
        names = ", ".join(map(str, source))
        raise PreferenceError(f"the pairs are a mapping of {names or 'nothing'}, not rows; choose one split of it")
    if not isinstance(source, Iterable):
        raise PreferenceError(f"pairs come from a file, a dataset or a list of rows, not from {type(source).__name__}")
    return "pairs", ((f"row {number}", row) for number, row in enumerate(source, 1))


class Broken:
    """A line that could not be read."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind, self.detail = kind, detail


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    content = _content(path)
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield f"line {number}", _parse(line)


def _content(path: Path) -> bytes:
    name = f"pairs file {path}"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PreferenceError(f"{name} does not exist; check the path") from None
    except OSError as error:
        raise PreferenceError(f"{name} cannot be read: {error.strerror}") from None
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise PreferenceError(f"{name} is a damaged gzip file ({error}); fetch or compress it again") from None
    wanted = "it has to hold one JSON object per line, as UTF-8 (.jsonl or .jsonl.gz)"
    for mark, kind in _MARKS.items():
        if content.startswith(mark):
            raise PreferenceError(f"{name} is {kind}; {wanted}")
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        raise PreferenceError(f"{name} is one JSON array; {wanted}")
    if start and not start.startswith(b"{"):
        first = start.split(b"\n", 1)[0][:60].decode("utf-8", errors="replace").strip()
        raise PreferenceError(f"{name} starts with {first!r}; {wanted}")
    return content


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Broken("not UTF-8", f"byte {error.start} of the line is 0x{line[error.start]:02x}")
    except json.JSONDecodeError as error:
        return Broken("not JSON", f"{error.msg} at character {error.pos + 1}")
    except RecursionError:
        return Broken("not JSON", "nested too deeply")
    except ValueError as error:  # an integer of more digits than Python converts
        return Broken("not JSON", str(error)[:80])
