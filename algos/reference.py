"""The untouched model: what every contestant starts from and must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bakeoff.algos.core.algorithm import Algorithm, DataSource


class Reference(Algorithm):
    """Learns nothing and spends nothing."""

    data_source: ClassVar[DataSource] = DataSource.NONE

    def update(self) -> Mapping[str, float]:
        """Nothing to do."""
        return {}

    @property
    def finished(self) -> bool:
        """Always."""
        return True
