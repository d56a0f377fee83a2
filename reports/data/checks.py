"""Whether what a run folder holds is of the types that a run writes. What is not costs a row or a cell, and not the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_MOST = 1e100
"""No number is larger: its square is a number, too."""
_SAMPLE_NUMBERS = ("proxy", "gold", "kl", "length", "win", "prompt_index")
_METERS = ("generated_tokens", "reward_queries", "trained_tokens", "seconds")


def is_number(value: Any) -> bool:
    """Whether it is a finite number of a size that can be squared; true and false are none."""
    return type(value) in (int, float) and -_MOST <= value <= _MOST


def is_sane(value: Any) -> bool:
    """Whether all numbers in it are finite, and of such a size."""
    if isinstance(value, dict):
        return all(map(is_sane, value.values()))
    if isinstance(value, list):
        return all(map(is_sane, value))
    return type(value) not in (int, float) or is_number(value)


def is_metrics_row(row: Any) -> bool:
    """Whether it is a row of ``metrics.jsonl``; one without a phase is an evaluation."""
    return (
        isinstance(row, dict)
        and type(row.get("step")) is int
        and is_number(row["step"])
        and isinstance(row.get("phase", "eval"), str)
        and all(is_number(row[name]) for name in _METERS if name in row)
        and isinstance(row.get("metrics"), dict)
        and all(value is None or is_number(value) for value in row["metrics"].values())
    )


def is_sample(row: Any) -> bool:
    """Whether it is a row of ``samples.jsonl``."""
    return (
        isinstance(row, dict)
        and is_sane(row)
        and all(row.get(name) is None or is_number(row[name]) for name in _SAMPLE_NUMBERS)
        and all(isinstance(row.get(name, ""), str) for name in ("prompt", "completion"))
    )


def sane_object(value: Any) -> dict[str, Any]:
    """The entries of a JSON object whose numbers are sane; none where it is no object."""
    return {name: item for name, item in value.items() if is_sane(item)} if isinstance(value, dict) else {}


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


_MANIFEST: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("bakeoff", "created", "command", "id"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("suite", "machine", "tasks"), lambda value: isinstance(value, dict)),
    "versions": _texts,
    "plugins": _list_of(lambda value: isinstance(value, dict)),
    "later_versions": _list_of(lambda value: isinstance(value, dict) and _texts(value.get("versions"))),
    "cells": _list_of(lambda value: isinstance(value, dict)),
}


def sane_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``manifest.json`` that are what a run writes, and those that this version does not know."""
    return {name: item for name, item in sane_object(manifest).items() if _MANIFEST.get(name, is_sane)(item)}
