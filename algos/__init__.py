"""How one learns: the policy, rollouts, pure maths, and one file per algorithm."""

from bakeoff.algos.base import Algorithm, AlgorithmConfig, Contestant, DataSource
from bakeoff.algos.build import build
from bakeoff.algos.policy import Policy

__all__ = ["Algorithm", "AlgorithmConfig", "Contestant", "DataSource", "Policy", "build"]
