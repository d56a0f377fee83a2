"""Small formulas for both sides of the import rule: environments and algorithms, and the reports."""

from __future__ import annotations

import math


def best_of_n_kl_bound(n: float) -> float:
    """ln n - (n - 1) / n: an upper bound in nats on KL(best of n || reference), exact where no two scores tie."""
    return math.log(n) - (n - 1) / n
