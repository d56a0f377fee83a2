"""How one learns: the policy, rollouts, pure maths, and one file per algorithm."""

from bakeoff.algos.core.algorithm import Algorithm, AlgorithmConfig, Contestant, DataSource

__all__ = ["Algorithm", "AlgorithmConfig", "Contestant", "DataSource"]
