"""Saving a reward model whole or not at all."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.envs.rewards.preference_model import PreferenceModel
from bakeoff.errors import UserError


def check_writable(folder: Path) -> None:
    """Find out before the training, not after it, that there is nowhere to save.

    Raises:
        UserError: the folder cannot be made, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder to save the reward model in")
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise UserError(f"{folder} is not empty and holds no reward model; give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write").write_bytes(b"0")
        (folder / ".write").unlink()
    except OSError as error:
        raise UserError(f"{folder}: {_reason(error)}") from error


def save_whole(folder: Path, members: Sequence[PreferenceModel], reports: Mapping[str, Any]) -> None:
    """Write one model, or ``member-0``, ``member-1``.. of an ensemble, and the JSON reports, replacing what is there.

    Raises:
        UserError: it cannot be written, a full disk among the reasons; what was there stays.
    """
    check_writable(folder)
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        for number, member in enumerate(members):
            home = fresh if len(members) == 1 else fresh / f"member-{number}"
            home.mkdir(exist_ok=True)
            member.save(home)
        for name, report in reports.items():
            (fresh / name).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        shutil.rmtree(folder)
        fresh.replace(folder)
    except Exception as error:  # safetensors raises its own for a full disk
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, OSError) or "os error" in str(error).lower() or "no space" in str(error).lower():
            raise UserError(f"{folder}: the reward model cannot be saved: {_reason(error)}") from error
        raise


def _is_ours(folder: Path) -> bool:
    return (folder / "report.json").is_file() and (
        (folder / "config.json").is_file() or (folder / "member-0").is_dir() or len(list(folder.iterdir())) == 1
    )


def _reason(error: Exception) -> str:
    text = str(error)
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text or "os error 28" in text:
        return "the disk is full; free some space, or give a folder on another disk"
    return getattr(error, "strerror", None) or " ".join(text.split())[:200]
