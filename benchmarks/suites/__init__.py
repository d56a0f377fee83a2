"""Suites that come with the toolkit; each name is the path of its file."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

quick = _HERE / "quick.yaml"
exact = _HERE / "exact.yaml"
frontier = _HERE / "frontier.yaml"
overoptimization = _HERE / "overoptimization.yaml"
smollm = _HERE / "smollm.yaml"
