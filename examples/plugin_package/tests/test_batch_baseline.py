"""BatchBaseline keeps the contract: it learns, repeats, resumes, is honest about what it spends, and more."""

import pytest
from bakeoff_batch_baseline import BatchBaseline

from bakeoff.testing import CHECKS, check_algorithm


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: str) -> None:
    """One test for each check."""
    checked = check_algorithm(BatchBaseline, only=[check])
    assert checked.passed, str(checked)
