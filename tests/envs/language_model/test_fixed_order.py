"""Sums that several threads add up come out equal each time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bakeoff.envs.language_model.batching import select_rows


def gradients(select: Callable[[Tensor, Tensor], Tensor]) -> set[bytes]:
    """The gradients of 20 rows that are selected 2,000 times each, in ten backward passes."""
    generator = torch.Generator().manual_seed(0)
    values = torch.zeros(20, 64, requires_grad=True)
    rows = torch.randint(0, 20, (40_000,), generator=generator)
    weights = torch.randn(40_000, 64, generator=generator)
    found = set()
    for _ in range(10):
        (gradient,) = torch.autograd.grad(select(values, rows), values, weights)
        found.add(gradient.numpy().tobytes())
    return found


@pytest.mark.usefixtures("two_threads")
def test_the_gradient_of_selected_rows_is_the_same_each_time() -> None:
    assert len(gradients(select_rows)) == 1
    # With indexing it was ten different ones on two idle cores; threads that get no core in turn may agree by chance.


def test_selecting_rows_is_indexing() -> None:
    values = torch.randn(5, 3, requires_grad=True)
    rows = torch.tensor([4, 0, 4])
    assert torch.equal(select_rows(values, rows), values[rows])
    (ours,) = torch.autograd.grad(select_rows(values, rows).square().sum(), values)
    (theirs,) = torch.autograd.grad(values[rows].square().sum(), values)
    torch.testing.assert_close(ours, theirs)
