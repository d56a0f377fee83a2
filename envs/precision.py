"""Which floating-point type takes large numbers from each other."""

from __future__ import annotations

import torch


def accurate(device: torch.device) -> torch.dtype:
    """float64, but float32 on a device that lacks it."""
    return torch.float32 if device.type == "mps" else torch.float64
