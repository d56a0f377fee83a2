"""Reads run folders as they are on disk: complete, half-written, failed or damaged. See docs/run-folder.md for the
contract.

Nothing here averages or judges. A torn last line (the writer was killed) is dropped and counted; a cell that is missing
or failed comes back as such, with its reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff import plain_files
from bakeoff.errors import RunFolderError
from bakeoff.reports.data import checks

SCHEMA = 2
"""The version of the run folder that this reader knows."""
_ROW_FILES = ("metrics.jsonl", "samples.jsonl", "records.jsonl")
METERS = ("generated_tokens", "reward_queries", "trained_tokens", "seconds")
"""The meter's totals, in the order of the store's rows."""


@dataclass(frozen=True)
class StoredCell:
    """One task x label x seed, as the store holds it."""

    task: str
    label: str
    algorithm: str
    seed: int
    path: Path
    """The cell's folder."""
    status: str
    """``done``, ``failed``, ``running``, ``pending``, ``missing`` (never started) or ``damaged`` (done, but
    unreadable).
    """
    error: str | None
    """One line on why it is not done."""
    config: Mapping[str, Any]
    """``config.json``, or empty."""
    state: Mapping[str, Any]
    """``status.json``, or empty."""
    evaluations: Sequence[Mapping[str, Any]] = field(repr=False)
    """Rows of ``metrics.jsonl`` whose phase is eval, in file order."""
    torn: int
    """Lines of ``metrics.jsonl`` that could not be read."""
    linked: bool = False
    """Whether its folder is a link, or behind one; nothing is read there."""

    def rows(self) -> list[Mapping[str, Any]]:
        """All readable rows of ``metrics.jsonl``, in file order; training rows are many, so they are not kept."""
        return [] if self.linked else _read_metrics(self.path / "metrics.jsonl", evaluations_only=False)[0]

    def records(self) -> Iterator[dict[str, Any]]:
        """Rows of ``records.jsonl``, what the algorithm wrote during training; none where it keeps no records."""
        lines = () if self.linked else _json_lines(self.path / "records.jsonl")
        return (row for row in lines if isinstance(row, dict) and checks.is_sane(row))

    def samples(self, *, ends_only: bool = False) -> list[dict[str, Any]]:
        """Rows of ``samples.jsonl``; with ``ends_only`` those of the first and the last evaluation."""
        path = self.path / "samples.jsonl"
        if self.linked:
            return []
        if not ends_only:
            return [row for row in _json_lines(path) if checks.is_sample(row)]
        first: list[bytes] = []
        last: list[bytes] = []
        first_step: int | None = None
        last_step: int | None = None
        for line in _complete_lines(path):
            step = _step_of(line)
            if step is None:
                continue
            if first_step is None:
                first_step = step
            if step == first_step:
                first.append(line)
                continue
            if step != last_step:
                last, last_step = [], step
            last.append(line)
        return [row for line in (*first, *last) if checks.is_sample(row := _parse(line))]


@dataclass(frozen=True)
class StoredRun:
    """One run folder."""

    path: Path
    name: str
    """The folder's name."""
    manifest: Mapping[str, Any]
    """``manifest.json``."""
    tasks: Mapping[str, Mapping[str, Any]]
    """What is known of each task: ``tasks/<task>.json``, over the manifest's ``tasks`` section."""
    cells: Sequence[StoredCell]
    """Every planned cell, in the manifest's order, whether it ran or not."""


def read_run(path: Path) -> StoredRun:
    """Read one run folder.

    Raises:
        RunFolderError: no such folder, no run in it, or one of another schema.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunFolderError(f"{path}: no such folder; give the folder that `bakeoff run SUITE --out DIR` wrote")
    file = path / "manifest.json"
    try:
        manifest = _parse(plain_files.read(file))
    except FileNotFoundError:
        raise RunFolderError(
            f"{path}: no manifest.json in it, so it is no run folder; give what `bakeoff run` wrote with --out"
        ) from None
    except OSError as error:
        raise RunFolderError(f"{file}: {error.strerror}") from error
    if not isinstance(manifest, dict):
        raise RunFolderError(
            f"{file}: not readable as JSON; put back the file as it was, or run the suite again into another --out"
        )
    schema = manifest.get("schema", SCHEMA)
    if schema != SCHEMA:
        maker = f", bakeoff {manifest['bakeoff']}" if isinstance(manifest.get("bakeoff"), str) else ""
        raise RunFolderError(
            f"{file}: schema {schema!r}, this version of bakeoff reads {SCHEMA}; use the version that made the folder{maker}"
        )
    manifest = checks.sane_manifest(manifest)
    return StoredRun(path, path.resolve().name, manifest, _read_tasks(path, manifest), _read_cells(path, manifest))


def _read_tasks(path: Path, manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    stored = manifest.get("tasks")
    tasks: dict[str, Mapping[str, Any]] = {}
    if isinstance(stored, dict):
        tasks = {str(name): value for name, value in stored.items() if isinstance(value, dict)}
    home = path / "tasks"
    for file in sorted(home.glob("*.json")) if plain_files.is_inside(home, path) else []:
        value = _read_object(file)
        if value:
            name = str(value.get("task") or value.get("name") or file.stem)
            tasks[name] = {**tasks.get(name, {}), **value}
    return tasks


def _read_cells(path: Path, manifest: Mapping[str, Any]) -> list[StoredCell]:
    planned = manifest.get("cells")
    cells: dict[Path, StoredCell] = {}
    for entry in planned if isinstance(planned, list) else []:
        if not isinstance(entry, dict):
            continue
        where = _cell_folder(path, entry)
        cells[where] = _read_cell(where, entry, linked=not plain_files.is_inside(where, path))
    for where in sorted(_seed_folders(path), key=_natural):
        if where not in cells:  # older or hand-made folders may lack the list
            cells[where] = _read_cell(where, {}, linked=False)
    return list(cells.values())


def _seed_folders(path: Path) -> Iterator[Path]:
    for home in plain_files.folders(path):
        for task in plain_files.folders(home) if home.name == "cells" else []:
            for label in plain_files.folders(task):
                yield from (seed for seed in plain_files.folders(label) if seed.name.startswith("seed-"))


def _cell_folder(path: Path, entry: Mapping[str, Any]) -> Path:
    default = Path("cells", str(entry.get("task")), str(entry.get("label")), f"seed-{entry.get('seed')}")
    given = Path(str(entry.get("path") or default))
    for place in (given, default):
        if not place.is_absolute() and ".." not in place.parts:
            return path / place
    return path / "cells"  # a manifest from elsewhere must not point outside its folder


def _read_cell(where: Path, entry: Mapping[str, Any], *, linked: bool) -> StoredCell:
    config = {} if linked else _read_object(where / "config.json")
    state = {} if linked else _read_object(where / "status.json")
    known: dict[str, Any] = {
        **entry,
        **{key: config[key] for key in ("task", "label", "algorithm", "seed") if key in config},
    }
    seed_text = where.name.removeprefix("seed-")
    seed = known.get("seed", int(seed_text) if seed_text.lstrip("-").isdigit() else 0)
    status = str(state.get("status", "missing"))
    error = state.get("error")
    evaluations, torn, wrong = ([], 0, 0) if linked else _read_metrics(where / "metrics.jsonl", evaluations_only=True)
    if linked:
        status, error = "damaged", "its folder is a link or behind one, and nothing is read there; remove the link"
    elif status == "done" and not evaluations:
        status, error = "damaged", "status is done, but metrics.jsonl holds no evaluation"
    elif status == "done" and wrong:
        status, error = "damaged", f"metrics.jsonl holds {wrong} row(s) whose values are no measurements"
    elif status == "done" and (altered := _altered(where, state.get("sums"))):
        status, error = "damaged", f"{altered} is not as it was when the cell ended; `bakeoff run` does the cell again"
    elif status == "missing":
        error = error or "never started"
    return StoredCell(
        task=str(known.get("task", where.parent.parent.name)),
        label=str(known.get("label", where.parent.name)),
        algorithm=str(known.get("algorithm", known.get("label", where.parent.name))),
        seed=int(seed) if isinstance(seed, int | float) else 0,
        path=where,
        status=status,
        error=None if status == "done" or error is None else str(error),
        config=config,
        state=state,
        evaluations=evaluations,
        torn=torn,
        linked=linked,
    )


def _altered(where: Path, sums: Any) -> str | None:
    """The first row file that differs from what was noted of it; made by hand, a folder may note nothing."""
    if sums is None:
        return None
    for name in _ROW_FILES:
        noted = sums.get(name) if isinstance(sums, dict) else ""
        try:
            with plain_files.open_file(where / name) as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError:
            found = None
        except OSError:
            return name
        if found != noted:
            return name
    return None


def _read_metrics(file: Path, *, evaluations_only: bool) -> tuple[list[Mapping[str, Any]], int, int]:
    """The rows; how many lines are none; and how many of these are JSON objects, which no kill can leave."""
    rows: list[Mapping[str, Any]] = []
    torn = wrong = 0
    lines = [
        line
        for line in _complete_lines(file)  # most lines are training's: do not parse them
        if not (evaluations_only and b'"train"' in line and b'"eval"' not in line and line.rstrip().endswith(b"}"))
    ]
    for row in _parse_all(lines):
        if checks.is_metrics_row(row):
            if row.setdefault("phase", "eval") == "eval" or not evaluations_only:
                rows.append(row)
        else:
            torn += 1
            wrong += isinstance(row, dict)
    return rows, torn, wrong


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = _parse(plain_files.read(file))
    except OSError:
        return {}
    return checks.sane_object(value)


def _json_lines(file: Path) -> Iterator[Any]:
    """Each line's value; ``None`` for a line that is not JSON."""
    for line in _complete_lines(file):
        yield _parse(line)


def _complete_lines(file: Path) -> Iterator[bytes]:
    try:
        yield from (line for line in plain_files.lines(file) if line.strip())
    except OSError:
        return


def _parse_all(lines: Sequence[bytes]) -> list[Any]:
    """Each line's value. All at once, which is much faster, where no line is damaged; else one by one."""
    together = _parse(b"[" + b",".join(lines) + b"]")
    if isinstance(together, list) and len(together) == len(lines):
        return together
    return [_parse(line) for line in lines]


def _parse(data: bytes) -> Any:
    """JSON with broken UTF-8 and lone surrogates replaced, or ``None``."""
    try:
        text = data.decode("utf-8", errors="replace")
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _without_surrogates(value) if "\\ud" in text or "\\uD" in text else value


def _without_surrogates(value: Any) -> Any:
    """A lone surrogate can be written as JSON but never encoded again: replace it once, here."""
    if isinstance(value, str):
        return value.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


_STEP = re.compile(rb'^\s*\{"step":\s*(\d+)\s*,')


def _step_of(line: bytes) -> int | None:
    found = _STEP.match(line)
    if found:
        return int(found.group(1))
    row = _parse(line)
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None


def _natural(path: Path) -> tuple[str, str, int]:
    digits = path.name.removeprefix("seed-")
    return path.parent.parent.name, path.parent.name, int(digits) if digits.isdigit() else -1
