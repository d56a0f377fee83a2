"""What every registered algorithm must keep to, as `bakeoff check` sees it; a new one is tested here without an edit."""

import pytest

from bakeoff import registry
from bakeoff.envs.tasks.base import Task
from bakeoff.testing import CHECKS, check_algorithm

NAMES = registry.algorithms.names()


def keep(name: str, check: str, task: Task) -> None:
    (found,) = check_algorithm(name, only=[check], task=task).checks
    if found.outcome == "skipped":
        pytest.skip(f"{name}: {found.reason}")
    assert found.outcome == "passed", f"{name}: {found.reason}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", [check for check in CHECKS if check != "learns"])
def test_contract(check: str, name: str, exact: Task) -> None:
    keep(name, check, exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_learns_on_the_exact_task(name: str, exact: Task) -> None:
    keep(name, "learns", exact)
