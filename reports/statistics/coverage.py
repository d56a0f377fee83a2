"""How often a nominal 95 % interval over few seeds contains the true mean. Measured by simulation; a test repeats it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COVERAGE = {3: 0.75, 5: 0.84, 10: 0.90, 20: 0.926}
"""Percentile bootstrap of the mean at so many seeds, normally scattered; skewed scatter covers about 0.05 less."""


def coverage_at(seeds: int) -> float:
    """The measured coverage, interpolated in 1/n; 0 for one seed (no interval at all)."""
    if seeds < 2:
        return 0.0
    known = np.array(sorted(COVERAGE))
    at = np.interp(1 / seeds, (1 / known)[::-1], np.array([COVERAGE[n] for n in known])[::-1])
    return float(at) if seeds > 2 else 0.5  # at two seeds both must lie on either side of the mean: one half


def simulate_coverage(seeds: int, *, rng: np.random.Generator, runs: int = 4000, skewed: bool = False) -> float:
    """Share of simulated experiments whose percentile bootstrap interval of the mean contains the true mean.

    Args:
        seeds: values in one experiment, standard normal, or standard exponential where ``skewed``.
        rng: draws values and resamples.
        runs: experiments.
        skewed: draw from an exponential distribution.
    """
    true = 1.0 if skewed else 0.0
    hits = 0
    for start in range(0, runs, 500):
        shape = (min(500, runs - start), seeds)
        values: NDArray[np.float64] = rng.exponential(size=shape) if skewed else rng.normal(size=shape)
        weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=1000) / seeds
        low, high = np.quantile(values @ weights.T, [0.025, 0.975], axis=1)
        hits += int(((low <= true) & (true <= high)).sum())
    return hits / runs
