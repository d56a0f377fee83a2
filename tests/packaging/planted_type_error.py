"""Wrong on purpose: test_packages.py checks that mypy finds both mistakes, each behind one of the linked folders."""

import torch

from bakeoff.algos.losses.advantages import masked_mean
from bakeoff.envs.meter import Meter

masked_mean("not a tensor", torch.ones(1))
Meter().no_such_total  # noqa: B018
