"""Algorithms: one file per contestant, and the packages that they share. A plugin imports what it needs from here."""

from bakeoff.algos.core.algorithm import Algorithm, Contestant, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.losses.rounding import relative_scores

__all__ = ["Algorithm", "AlgorithmConfig", "Contestant", "DataSource", "Optimizer", "Policy", "relative_scores"]
