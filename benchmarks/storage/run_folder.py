"""The folder of a run: which suite it belongs to, what it holds, and a lock so that one process writes it at a time."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeGuard

from bakeoff import plain_files, registry
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.spec.schema import Suite
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.benchmarks.storage.cell_store import SCHEMA, check_schema, now
from bakeoff.errors import RunFolderError
from bakeoff.plugins import PluginFile

_FREE = ("description", "seeds", "retries", "timeout", "checkpoint_every", "trackers", "ray", "tune")
"""What may change between two runs into one folder, since it changes no cell's numbers."""
INCOMING = ".incoming-"
"""Begins the names of folders that archives are unpacked in; a kill leaves them."""


def make(folder: Path) -> None:
    """Make a folder for a run, where it is not there.

    Raises:
        RunFolderError: not writable, or not empty and no run.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (FileExistsError, NotADirectoryError) as error:
        raise RunFolderError(f"{folder}: it or a part of its path is a file; choose another --out") from error
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
    if (folder / "manifest.json").exists():
        return
    foreign = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if foreign:
        shown = foreign[0] + (", ..." if len(foreign) > 1 else "")
        raise RunFolderError(f"{folder}: not empty ({shown}) and not a run folder; choose another --out")


def open_folder(
    folder: Path, suite: Suite, threads: int, command: str, plugins: Sequence[PluginFile] = ()
) -> dict[str, Any]:
    """Begin a run in a folder that this process has locked, or check that the run in it is this suite's; returns its manifest.

    More seeds than before are added; fewer leave the others as they are. A folder in which no cell has begun yet is begun again.

    Raises:
        RunFolderError: another suite's, of another schema, or begun with other plugin files.
    """
    for left in folder.glob(f"{INCOMING}*"):
        shutil.rmtree(left, ignore_errors=True)
    path = folder / "manifest.json"
    if path.exists():
        manifest = atomic_files.read_json(path)
        if manifest is not None and not isinstance(manifest, dict):
            raise RunFolderError(f"{path}: damaged, or not a run's manifest; choose another --out")
        check_schema({"schema": SCHEMA} if manifest is None else manifest, folder)
        if any(folder.glob("cells/*/*/seed-*")):
            return _extend(path, folder, suite, plugins)
    manifest = {
        "schema": SCHEMA,
        "id": uuid.uuid4().hex,
        "bakeoff": metadata.version("bakeoff"),
        "suite": suite.document(),
        "versions": versions(),
        "plugins": [plugin.record() for plugin in plugins],
        "git_commit": git_commit(),
        "machine": {**machine(), "threads_per_cell": threads},
        "created": now(),
        "command": command,
        "cells": _listed(suite.cells()),
        "tasks": {},
    }
    atomic_files.write_json(path, manifest)
    return manifest


def _extend(path: Path, folder: Path, suite: Suite, plugins: Sequence[PluginFile]) -> dict[str, Any]:
    manifest = atomic_files.read_json(path)
    if not _readable(manifest):
        raise RunFolderError(f"{path}: damaged, or not a run's manifest; choose another --out")
    theirs, ours = manifest["suite"], suite.document()
    # A key that only one of them has, such as `accelerate`, is a difference, too.
    differing = [key for key in {**ours, **theirs} if key not in _FREE and theirs.get(key) != ours.get(key)]
    if differing:
        raise RunFolderError(
            f'{folder}: belongs to another suite ("{theirs.get("name")}"; {", ".join(differing)} differ); '
            "choose another --out, or run the suite that it was made with"
        )
    _check_plugins(folder, manifest.get("plugins", []), plugins)
    known = {entry["path"] for entry in manifest["cells"]}
    added = [entry for entry in _listed(suite.cells()) if entry["path"] not in known]
    if added:
        manifest["cells"] += added
        manifest["suite"]["seeds"] = sorted({*theirs["seeds"], *ours["seeds"]})
    later = _differing_versions(manifest)
    if later:
        manifest["later_versions"] = [*manifest.get("later_versions", []), {"from": now(), "versions": later}]
    if added or later:
        atomic_files.write_json(path, manifest)
    return manifest


def _differing_versions(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The packages whose version is not the one that the run last used."""
    last = {"bakeoff": manifest.get("bakeoff"), **manifest.get("versions", {})}
    for change in manifest.get("later_versions", []):
        last |= change["versions"]
    here = {"bakeoff": metadata.version("bakeoff"), **versions()}
    return {name: version for name, version in here.items() if name in last and last[name] != version}


def _readable(manifest: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it has what resuming needs."""
    if not (isinstance(manifest, dict) and isinstance(manifest.get("suite"), dict)):
        return False
    cells, threads = manifest.get("cells"), (manifest.get("machine") or {}).get("threads_per_cell")
    listed = isinstance(cells, list) and all(isinstance(entry, dict) and "path" in entry for entry in cells)
    return listed and isinstance(threads, int)


def _check_plugins(folder: Path, recorded: Sequence[Mapping[str, str]], given: Sequence[PluginFile]) -> None:
    """The text of a plugin decides numbers, so a run resumes only with the text that it was begun with; its path may differ."""
    sums = {plugin.sha256 for plugin in given}
    for plugin in recorded:
        if plugin["sha256"] not in sums:
            changed = any(Path(other.path).name == Path(plugin["path"]).name for other in given)
            state = "has changed since" if changed else "is missing now"
            raise RunFolderError(
                f"{folder}: was begun with --plugin {plugin['path']} (SHA-256 {plugin['sha256'][:12]}...), which {state}; "
                "give the file as it was, or choose another --out"
            )
    begun_with = {plugin["sha256"] for plugin in recorded}
    for file in given:
        if file.sha256 not in begun_with:
            raise RunFolderError(
                f"{folder}: was begun without --plugin {file.path}; leave it out, or choose another --out"
            )


def _listed(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [
        {"task": cell.task, "label": cell.label, "algorithm": cell.algorithm, "seed": cell.seed, "path": cell.path}
        for cell in cells
    ]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; the system releases the lock when the process ends, in any way.

    Raises:
        RunFolderError: another process is running in it; or it holds links or special files, as no run leaves them.
    """
    plain_files.refuse_links(folder, leaving=("trackers", "export"))
    with plain_files.open_to_append(folder / ".lock") as file:
        try:
            atomic_files.lock(file, 0.0)
        except TimeoutError as error:
            raise RunFolderError(
                f"{folder}: another bakeoff run is writing it; wait for it or choose another --out"
            ) from error
        yield


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Inside, raise errors of the file system (a full disk, a folder where a file belongs) as RunFolderError."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise RunFolderError(
            f"{where}: {error.strerror or error}; what is done is kept; repair it, and the same command resumes"
        ) from error


def versions() -> dict[str, str]:
    """Versions of Python's packages that this toolkit depends on, and of every plugin's package."""
    names = {
        re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0]
        for line in metadata.requires("bakeoff") or ()
        if "extra ==" not in line
    }
    found = {}
    for name in sorted(names | registry.distributions(), key=str.lower):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_commit() -> str | None:
    """The commit of this toolkit's own source, where it runs from a checkout; ``-dirty`` where files differ from it."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(here.parent), *arguments], capture_output=True, text=True, timeout=10)

    try:
        if git("ls-files", "--error-unmatch", here.name).returncode:  # installed inside another repository
            return None
        commit = git("rev-parse", "HEAD").stdout.strip()
        return (commit + ("-dirty" if git("diff", "--quiet", "HEAD").returncode else "")) or None
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> Mapping[str, Any]:
    """The facts of this machine that explain seconds and last digits."""
    from bakeoff.processors import cores

    info: dict[str, Any] = {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
    }
    with contextlib.suppress(ValueError, OSError, AttributeError):
        info["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return info


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
