"""Formulas by hand."""

import pytest

from bakeoff.maths import best_of_n_kl_bound


def test_best_of_n_bound() -> None:
    assert [best_of_n_kl_bound(n) for n in (1, 2, 4, 64)] == pytest.approx([0, 0.1931, 0.6363, 3.1745], abs=5e-5)
