"""A synthetic run, read and reported once for all tests here."""

import importlib.util
from pathlib import Path

import pytest

from bakeoff.reports import Results, write_report


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
