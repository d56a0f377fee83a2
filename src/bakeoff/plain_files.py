"""Opening files of a run folder, which may come from a stranger: regular files only, no link followed, nothing endless read.

A planted link would let a command write where the stranger likes, with the user's rights; a named pipe or a device would hang it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Collection, Iterator
from io import BufferedReader, BufferedWriter
from pathlib import Path

from bakeoff.errors import RunFolderError

LONGEST_FILE = LONGEST_LINE = 1 << 24
"""Bytes of a JSON file, and of a line of JSON lines, that are read: 16 MiB, a hundred times what a run writes."""
OVERLONG = b"overlong"
"""Stands for a line that is longer; it is no JSON."""
_WHAT = "is a link or no regular file, which a run folder does not hold; remove it"
_SAFE = 0
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # no system has them all
    _SAFE |= getattr(os, _name, 0)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file to read.

    Raises:
        FileNotFoundError: it is missing.
        OSError: a link, a folder, a device, a named pipe; or the file system refuses.
    """
    return os.fdopen(_descriptor(path, os.O_RDONLY), "rb")


def open_to_append(path: Path) -> BufferedWriter:
    """Open a regular file to append to, which makes a missing one and leaves another's content.

    Raises:
        OSError: as :func:`open_file`.
    """
    return os.fdopen(_descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def _descriptor(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, _SAFE | flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            raise _not_plain(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_plain(path)
    return descriptor


def read(path: Path, limit: int = LONGEST_FILE) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: as :func:`open_file`; or it is larger.
    """
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit} bytes", str(path))
    return content


def lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """The lines of a regular file, their ends included; :data:`OVERLONG` for each that is longer than ``longest`` bytes.

    Raises:
        OSError: as :func:`open_file`.
    """
    with open_file(path) as file:
        while line := file.readline(longest + 1):
            if len(line) <= longest:
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(1 << 16)
            yield OVERLONG + b"\n"


def replace(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably: a new file of a random name beside it, flushed to disk, then renamed over it.

    A link of this name is replaced, and what it leads to stays as it is.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    descriptor = os.open(fresh, _SAFE | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse; the rename itself is still atomic
        pass
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is missing.

    Raises:
        OSError: a link or a file is there; or the file system refuses.
    """
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise _not_plain(path)


def folders(path: Path) -> list[Path]:
    """The folders in a folder, links to folders left out, by name; none where it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        return sorted(path / entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return []


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path below a root leads through no link."""
    parts = path.relative_to(root).parts
    return not any(root.joinpath(*parts[: count + 1]).is_symlink() for count in range(len(parts)))


def refuse_links(root: Path, leaving: Collection[str] = ()) -> None:
    """Check that there is nothing but folders and regular files under a root.

    Args:
        root: the folder; it may be a link itself.
        leaving: folders right under it, in whose own folders others may write as they like.

    Raises:
        RunFolderError: a link, a device, a named pipe; names the first by its path.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    if not (folder.parent == root and folder.name in leaving):
                        waiting.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    raise RunFolderError(f"{entry.path}: {_WHAT}, or choose another --out")


def _not_plain(path: Path) -> OSError:
    return OSError(errno.ELOOP, _WHAT, str(path))
