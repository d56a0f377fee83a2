"""The enumerable task, built once: every test starts from its reference."""

import pytest

from bakeoff.envs.tasks.base import Task, make_task


@pytest.fixture(scope="session")
def exact() -> Task:
    return make_task("exact")
