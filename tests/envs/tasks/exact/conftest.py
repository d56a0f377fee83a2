import pytest
import torch

from bakeoff.envs.tasks.exact.task import exact, exact_sparse


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Threads gain nothing at this size, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def dense():
    return exact()


@pytest.fixture(scope="package")
def sparse():
    return exact_sparse()
