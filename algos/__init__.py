"""How one learns: the policy, rollouts, pure maths, and one file per algorithm."""

from bakeoff.algos.core.algorithm import Algorithm, AlgorithmConfig, Contestant, DataSource
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy

__all__ = ["Algorithm", "AlgorithmConfig", "Contestant", "DataSource", "Optimizer", "Policy"]
