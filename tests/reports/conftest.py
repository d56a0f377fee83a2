"""A synthetic run, read and reported once for all tests here."""

import importlib.util
from pathlib import Path

import pytest

from bakeoff.reports import Results, write_report
from bakeoff.reports.page import report as report_module


def _load_writer():
    path = Path(__file__).with_name("synthetic.py")
    spec = importlib.util.spec_from_file_location("synthetic_runs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic():
    """The module that writes run folders."""
    return _load_writer()


@pytest.fixture(scope="session")
def run(tmp_path_factory, synthetic):
    """A run folder with hostile text, a failed cell, a missing one and a torn line."""
    return synthetic.write_run(tmp_path_factory.mktemp("runs") / "quick")


@pytest.fixture(scope="session")
def results(run):
    return Results.load(run)


@pytest.fixture(scope="session")
def report(results):
    """The folder of the report."""
    return write_report(results).parent


@pytest.fixture
def few_figures(monkeypatch):
    """Reports of two figures: for tests that are not about figures."""
    few = {kind: report_module.FIGURES[kind] for kind in ("learning_curves", "cost")}
    monkeypatch.setattr(report_module, "FIGURES", few)
    return few


@pytest.fixture
def no_figures(monkeypatch):
    """Reports without figures: for tests of what the report says."""
    monkeypatch.setattr(report_module, "FIGURES", {})
