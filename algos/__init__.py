"""How one learns: the policy, rollouts, pure maths, and one file per algorithm."""

from bakeoff.algos.base import Algorithm, AlgorithmConfig, Contestant, DataSource

__all__ = ["Algorithm", "AlgorithmConfig", "Contestant", "DataSource"]
