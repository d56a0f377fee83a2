"""Links, devices, named pipes and endless lines are not followed, written or waited for."""

import os
from pathlib import Path

import pytest

from bakeoff import plain_files
from bakeoff.errors import RunFolderError


def special(kind: str, path: Path, target: Path) -> None:
    match kind:
        case "link":
            path.symlink_to(target)
        case "device":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()


@pytest.mark.parametrize("kind", ["link", "device", "pipe", "folder"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    special(kind, tmp_path / "file", target)
    for way in (plain_files.open_file, plain_files.open_to_append):
        with pytest.raises(OSError, match="is a link or no regular file"):
            way(tmp_path / "file")
    assert target.read_bytes() == b"mine"


def test_opening_to_write_makes_and_never_truncates(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        with plain_files.open_to_append(tmp_path / "file") as file:
            file.write(text)
    assert plain_files.read(tmp_path / "file") == b"onetwo"
    with pytest.raises(OSError, match="larger than 5 bytes"):
        plain_files.read(tmp_path / "file", 5)
    with pytest.raises(FileNotFoundError):
        plain_files.open_file(tmp_path / "none")


def test_a_line_too_long_is_one_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234\n" + b"x" * 200_000 + b"\n12345\n" + b"y" * 9)
    expected = [b"1234\n", b"overlong\n", b"overlong\n", b"overlong\n"]
    assert list(plain_files.lines(tmp_path / "file", 5)) == expected
    assert list(plain_files.lines(tmp_path / "file", 6))[2:] == [b"12345\n", b"overlong\n"]


def test_replacing_leaves_what_a_link_leads_to(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    for name in ("file", f".file.{os.getpid()}.new", ".file.new"):  # what a stranger could foresee
        (tmp_path / name).symlink_to(target)
    plain_files.replace(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()
    assert target.read_bytes() == b"mine"
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode  # and not 0600, as for secrets


def test_folders_behind_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "link").symlink_to("a")
    assert plain_files.folders(root) == [root / "a"]
    assert plain_files.folders(root / "none") == []
    assert plain_files.is_inside(root / "a" / "b", root)
    assert not plain_files.is_inside(root / "link" / "b", root)
    plain_files.make_folder(root / "a" / "b")
    with pytest.raises(OSError, match="is a link"):
        plain_files.make_folder(root / "link")


@pytest.mark.parametrize("kind", ["link", "device", "pipe"])
def test_refusing_links_anywhere_below(kind: str, tmp_path: Path) -> None:
    (tmp_path / "deep" / "in").mkdir(parents=True)
    (tmp_path / "others" / "its").mkdir(parents=True)
    special(kind, tmp_path / "others" / "its" / "own", tmp_path)
    plain_files.refuse_links(tmp_path, leaving=["others"])
    with pytest.raises(
        RunFolderError, match="own: is a link or no regular file, which a run folder does not hold; remove"
    ):
        plain_files.refuse_links(tmp_path)
    (tmp_path / "others" / "its" / "own").unlink()
    special(kind, tmp_path / "others" / "link", tmp_path)
    with pytest.raises(RunFolderError, match="others/link"):  # what others may write is in folders of their own
        plain_files.refuse_links(tmp_path, leaving=["others"])
