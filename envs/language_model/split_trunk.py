"""A trunk cut between two blocks: what lies below the cut is frozen and computed once, what lies above it trains.

Both parts are the family's own forward pass with another list of blocks, so masks, positions and rotary angles are made as
they always are. Where the cut is, a stand-in block keeps what arrives or hands on what was kept. That this equals the whole
trunk is checked once when the cut is made, not assumed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bakeoff.errors import ModelError

TOLERANCE = 1e-4
"""Largest difference allowed between the cut trunk's hidden states and the whole one's, relative to their size."""


class SplitTrunk:
    """The lower and the upper part of a trunk; the blocks in them are the trunk's own, not copies."""

    def __init__(self, trunk: Any, top_layers: int, name: str) -> None:
        """Cut below the ``top_layers`` highest blocks.

        Args:
            trunk: a transformers model without its head.
            top_layers: how many blocks lie above the cut.
            name: the model's, for messages.

        Raises:
            ModelError: fewer blocks than that, or blocks that cannot be found.
        """
        attribute, blocks = find_blocks(trunk, name)
        self.name, self.top_layers = name, top_layers
        self.cut = cut_below(len(blocks), top_layers, name)
        self.first_above: nn.Module = blocks[self.cut]
        self._keeper, self._giver = _Boundary(), _Boundary()
        kinds = list(getattr(trunk.config, "layer_types", None) or [])
        below, above = kinds[: self.cut], kinds[self.cut :]
        self._bottom = _with_blocks(trunk, attribute, [*blocks[: self.cut], self._keeper], [*below, *below[-1:]])
        self._top = _with_blocks(trunk, attribute, [self._giver, *blocks[self.cut :]], [*above[:1], *above])

    @torch.no_grad()
    def features(self, tokens_BS: Tensor, **inputs: Any) -> Tensor:
        """Activations at the cut, shape (B, S, D); never differentiable, since what makes them is frozen."""
        self._bottom(tokens_BS, use_cache=False, **inputs)
        return self._keeper.take()

    def hidden(self, features_BSD: Tensor, tokens_BS: Tensor, **inputs: Any) -> Tensor:
        """Final hidden states from kept activations, shape (B, S, D); differentiable in the blocks above the cut."""
        self._giver.features = features_BSD
        hidden: Tensor = self._top(tokens_BS, use_cache=False, **inputs).last_hidden_state
        self._giver.take()
        return hidden

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Keep the activations that cross the cut in ordinary forward passes of the whole trunk, one tensor per pass."""
        kept: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append((args[0] if args else kwargs["hidden_states"]).detach())

        handle = self.first_above.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield kept
        finally:
            handle.remove()

    def check(self, whole_BSD: Tensor, tokens_BS: Tensor, mask_BS: Tensor, **inputs: Any) -> None:
        """Compare with the whole trunk's hidden states of the same tokens.

        Raises:
            ModelError: this family's forward pass is more than its blocks one after the other.
        """
        try:
            parts = self.hidden(self.features(tokens_BS, **inputs), tokens_BS, **inputs)
        except Exception as error:  # an unforeseen family's code may raise anything
            reason = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
        else:
            difference = float((parts - whole_BSD)[mask_BS].abs().max() / whole_BSD[mask_BS].abs().max())
            if difference <= TOLERANCE:
                return
            reason = f"hidden states differ by {difference:.2g} of the largest"
        raise ModelError(
            f'the blocks of "{self.name}" ({type(self._top).__name__}) cannot be run in two parts ({reason}); '
            "use trainable: lora or full"
        )


def cut_below(blocks: int, top_layers: int, name: str) -> int:
    """How many blocks lie below the cut; a :class:`ModelError` unless there is one at least."""
    if not 0 < top_layers < blocks:
        raise ModelError(
            f'top_layers is {top_layers}, "{name}" has {blocks} blocks; give 1 to {blocks - 1}, or use trainable: full'
            if blocks > 1
            else f'"{name}" has a single block, which leaves nothing to freeze below it; use trainable: full or lora'
        )
    return blocks - top_layers


def find_blocks(trunk: Any, name: str) -> tuple[str, Sequence[nn.Module]]:
    """The attribute that holds a trunk's blocks, and the blocks from the lowest to the highest.

    Raises:
        ModelError: none, or several candidates.
    """
    depth = int(getattr(trunk.config, "num_hidden_layers", -1))
    found = [
        (key, child)
        for key, child in trunk.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ]
    if len(found) != 1:
        raise ModelError(
            f'the blocks of "{name}" ({type(trunk).__name__}) are not one list of {depth}; use trainable: lora or full'
        )
    key, blocks = found[0]
    return key, list(blocks)


def names_above(trunk: Any, top_layers: int, name: str) -> tuple[str, ...]:
    """Prefixes of the weights above the cut, final norm included: what `top_layers` trains."""
    attribute, blocks = find_blocks(trunk, name)
    cut = cut_below(len(blocks), top_layers, name)
    children = [key for key, _ in trunk.named_children()]
    after = children[children.index(attribute) + 1 :]
    return (*(f"{attribute}.{i}." for i in range(cut, len(blocks))), *(f"{key}." for key in after))


class _Boundary(nn.Module):
    """Replaces a block at the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.features: Tensor | None = None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.features is None:
            self.features = hidden_states
        return self.features

    def take(self) -> Tensor:
        """Returns what was kept and forgets it."""
        features, self.features = self.features, None
        if features is None:
            raise ValueError("nothing crossed the cut")
        return features


def _with_blocks(trunk: Any, attribute: str, blocks: Sequence[nn.Module], kinds: Sequence[str]) -> Any:
    """A view of the trunk with another list of blocks; everything else in it is the trunk's own."""
    part = copy.copy(trunk)
    # A shallow copy shares the dict of children; the forward hooks stay shared, so what counts tokens counts here too.
    part.__dict__["_modules"] = dict(trunk.__dict__["_modules"])
    setattr(part, attribute, nn.ModuleList(blocks))
    part.config = copy.copy(trunk.config)
    part.config.num_hidden_layers = len(blocks)
    if kinds:
        part.config.layer_types = list(kinds)
    return part
