"""Gradient checkpointing in eval mode: of each block only the input is kept, the rest is computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from bakeoff.errors import ModelError


class GradientCheckpoints:
    """Switches transformers' own checkpointing of some blocks on where gradients are wanted."""

    def __init__(self, blocks: Sequence[Any], name: str) -> None:
        """Prepare the blocks; ``name`` is the model's, for messages.

        Raises:
            ModelError: a family that cannot.
        """
        if not all(isinstance(block, GradientCheckpointingLayer) for block in blocks):
            raise ModelError(f'"{name}" ({type(blocks[0]).__name__}) cannot checkpoint gradients; switch it off')
        for block in blocks:
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        self._blocks = tuple(blocks)

    @contextmanager
    def active(self) -> Iterator[None]:
        """For a forward pass: transformers checkpoints a block only in train mode.

        The block's children stay in eval mode, so nothing drops out.
        """
        blocks = self._blocks if torch.is_grad_enabled() else ()
        for block in blocks:
            block.training = True
        try:
            yield
        finally:
            for block in blocks:
                block.training = False
