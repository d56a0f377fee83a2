"""Shared by all tests: one thread each, since they run side by side."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stories_folder() -> Path:
    models = os.environ.get("BAKEOFF_TEST_MODELS")
    folder = Path(models) / "stories260K" if models else None
    if folder is None or not folder.is_dir():
        pytest.skip("BAKEOFF_TEST_MODELS names no folder with stories260K in it")
    return folder


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
