"""Several processes that run one cell together, each with its own device. Off unless a suite enables it.

All of them run the same program on the same random numbers, so every rank has the same state. Expensive work is sharded by rows
and exchanged: sampling, reading completions without gradients, and the gradient of each minibatch. Only rank 0 calls rewards.
Unsharded work is repeated on every rank, which is slower and stays correct.

The processes communicate through accelerate (``torch.distributed``: NCCL between GPUs, gloo between CPUs). With one
process, the default, every function here returns its input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from bakeoff.errors import BakeoffError

T = TypeVar("T")

_PATIENCE = timedelta(days=1)
"""The longest wait for another process in an exchange: a reward may be slow, and a process that exits is detected separately."""
_BUCKET = 2**24
"""Numbers of a gradient that are exchanged at once."""


@dataclass
class _Team:
    size: int = 1
    rank: int = 0
    apart: _Apart | None = None


@dataclass
class _Apart:
    """The counts of one process while it works on its own rows."""

    tokens: int = 0
    counters: list[Callable[[int], None]] = field(default_factory=list)


_team = _Team()


# ---------------------------------------------------------------- coming together


@contextmanager
def together(rank: int, size: int, address: str, port: int, *, gpu: bool) -> Iterator[None]:
    """Be one of ``size`` processes inside; returns from entering once all of them are there.

    Args:
        rank: which one, from 0. With ``gpu`` it works on the GPU of that number.
        size: how many there are.
        address: where the first one listens.
        port: its port.
        gpu: exchange between GPUs; between CPUs otherwise.
    """
    from accelerate import PartialState

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    said = {**place, "MASTER_ADDR": address, "MASTER_PORT": port, "OMP_NUM_THREADS": torch.get_num_threads()}
    before = {name: os.environ.get(name) for name in said}
    os.environ.update({name: str(value) for name, value in said.items()})
    PartialState._reset_state()  # another library may have initialized it for this process alone
    try:
        state = PartialState(cpu=not gpu, timeout=_PATIENCE)
        _team.size, _team.rank = state.num_processes, state.process_index
        yield
    finally:
        _team.size, _team.rank, _team.apart = 1, 0, None
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        PartialState._reset_state()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_first() -> bool:
    """Whether this process is the one that calls rewards and writes files."""
    return _team.rank == 0


# ---------------------------------------------------------------- what the first one says


def broadcast(value: T) -> T:
    """The first process's value, in all of them."""
    if _team.size == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]  # type: ignore[no-any-return]


def on_main(compute: Callable[[], T]) -> T:
    """The result of rank 0, on every rank."""
    if _team.size == 1:
        return compute()
    return broadcast(compute() if is_first() else None)  # type: ignore[return-value]


# ---------------------------------------------------------------- sharing out rows


def should_shard(rows: int) -> bool:
    """Whether so many rows are sharded: there are several processes, enough rows, and no sharding is in progress."""
    return _team.size > 1 and _team.apart is None and rows >= _team.size


def shard(rows: int, rank: int | None = None) -> range:
    """The rows of one process, this one by default: adjacent ones, since they often answer one prompt."""
    rank = _team.rank if rank is None else rank
    return range(rank * rows // _team.size, (rank + 1) * rows // _team.size)


@contextmanager
def apart() -> Iterator[_Apart]:
    """Work on rows of one's own inside: nothing is shared out there, and what is counted waits for :func:`total_of`."""
    _team.apart = _Apart()
    try:
        yield _team.apart
    finally:
        _team.apart = None


def gather_rows(tensor: Tensor, rows: int) -> Tensor:
    """All rows in their order, from each process's own; all but the first dimension is the same everywhere."""
    from accelerate.utils import gather

    most = max(len(shard(rows, rank)) for rank in range(_team.size))
    own = tensor.detach().reshape(len(tensor), -1).contiguous()
    padded = own.new_zeros(most, own.shape[1])
    padded[: len(own)] = own
    # As bytes: the exchange between CPUs does not know every type.
    every: Tensor = gather(padded.view(torch.uint8)).view(own.dtype)
    kept = [rank * most + place for rank in range(_team.size) for place in range(len(shard(rows, rank)))]
    return every[torch.tensor(kept, device=every.device)].reshape(rows, *tensor.shape[1:])


def map_sharded(rows: int, compute: Callable[[range], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of all rows, each process having computed its own; only where :func:`shares` says so.

    Args:
        rows: how many there are.
        compute: row numbers to tensors with a row for each, by any names.
    """
    with apart():
        found = compute(shard(rows))
    return {name: gather_rows(tensor, rows) for name, tensor in found.items()}


def all_reduce_rows(tensor: Tensor) -> Tensor:
    """A tensor of one value per row (0 elsewhere) of which each process has filled in its own rows, with those of all."""
    if not should_shard(len(tensor)):
        return tensor
    from accelerate import PartialState
    from accelerate.utils import reduce

    total: Tensor = reduce(tensor.to(PartialState().device), "sum")
    return total.to(tensor.device)


# ---------------------------------------------------------------- gradients and counts


def count(add: Callable[[int], None], tokens: int) -> None:
    """Tell a counter of tokens; while processes work apart, keep it for :func:`total_of`."""
    if _team.apart is None:
        add(tokens)
        return
    _team.apart.tokens += tokens
    if add not in _team.apart.counters:
        _team.apart.counters.append(add)


def total_of(work: _Apart, figures: Mapping[str, float]) -> dict[str, float]:
    """Sums of each figure over all processes; counters receive the sum over processes."""
    from accelerate.utils import gather_object

    found = gather_object([(work.tokens, dict(figures))])
    for add in work.counters:
        add(sum(tokens for tokens, _ in found))
    names = dict.fromkeys(name for _, theirs in found for name in theirs)
    return {name: sum(theirs.get(name, 0.0) for _, theirs in found) for name in names}


def all_reduce_gradients(parameters: Sequence[nn.Parameter], *, mean: bool = False) -> None:
    """Replace each gradient by its sum, or mean, over all processes; it stays None where all have none."""
    if _team.size == 1 or not parameters:
        return
    from accelerate.utils import reduce

    device = parameters[0].device
    there = reduce(torch.tensor([float(p.grad is not None) for p in parameters], device=device), "sum")
    moved = [p for p, count in zip(parameters, there.tolist(), strict=True) if count]
    for bucket in _buckets(moved):
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in bucket])
        flat = reduce(flat, "mean" if mean else "sum")
        for parameter, summed in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            parameter.grad = summed.view_as(parameter).to(parameter.dtype)


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


@torch.no_grad()
def check_together(parameters: Iterable[nn.Parameter]) -> None:
    """Stop where the weights of processes differ.

    Raises:
        BakeoffError: they have; an algorithm draws from a source of its own, or trains past the shared optimizer.
    """
    if _team.size == 1:
        return
    from accelerate.utils import gather_object

    print_of = repr([float(p.double().sum()) for p in parameters])
    if len(set(gather_object([print_of]))) > 1:
        raise BakeoffError(
            "the weights of this cell's processes differ; the algorithm draws its own random numbers or "
            "trains without bakeoff's Optimizer: run it with accelerate.processes: 1"
        )
