"""A GPU that is only pretended, to find tensors left on the wrong device on a machine that has none.

Inside :func:`pretend_gpu` what is asked to be on ``cuda`` is a :class:`GpuTensor`: it says that it is on ``cuda:0``,
computes on the CPU, and refuses what a GPU would refuse. It stands below autograd, so the backward pass and the
optimizer's step are looked at like the rest.

It sees: a CPU tensor and a GPU tensor in one operation, a GPU tensor turned into an array, and a CPU generator that
is to draw on the GPU. What PyTorch allows is allowed: a CPU tensor without dimensions, CPU indices into a GPU tensor, copies.

It does not see: what a GPU's kernels lack or round otherwise, which kernels attention and the optimizer would choose,
memory, speed, streams, a second GPU. C++ code that asks such a tensor for its device is told ``cpu``, so a few correct
lines are refused: ``new_tensor``, ``one_hot``, and ``zeros_like(gpu, device="cpu")`` which stays on the GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
COPIES = ("copy_", "_to_copy")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
NEVER_MIXED = ("cat", "stack", "gather", "scatter", "scatter_", "index_select")
"""Operations that refuse even a CPU tensor without dimensions."""


class WrongDeviceError(RuntimeError):
    """What a GPU would have refused."""


class GpuTensor(Tensor):
    """A tensor that keeps its values in a CPU tensor and says that it is on the first GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "GpuTensor":
        made: GpuTensor = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: "GpuTensor") -> None:
        if (value.shape, value.dtype, value.stride()) != (self.shape, self.dtype, self.stride()):
            raise NotImplementedError("data of another shape, dtype or layout")
        self.inner = value.inner

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise WrongDeviceError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> "GpuTensor":
        if id(self) not in memo:
            copied = GpuTensor(self.inner.clone()).requires_grad_(self.requires_grad)
            memo[id(self)] = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
        return memo[id(self)]


class Move(torch.autograd.Function):
    """A copy on the other device; its gradient goes the way back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.inner.clone() if isinstance(tensor, GpuTensor) else GpuTensor(tensor.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Move.apply(grad)


class Mode(TorchDispatchMode):
    """Shows :func:`run` the operations in which no GPU tensor takes part as well: they may make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation on the CPU, after a look at its tensors; its results are on the GPU if it was asked to be there."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    device = kwargs.get("device")
    asked = device is not None and device.type == "cuda"
    on_gpu = asked or any(isinstance(x, GpuTensor) for x in tensors)  # where it says "cpu" C++ asked one of the tensors
    check(func, args, kwargs, tensors, on_gpu)
    if asked:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map(inner_of, (args, kwargs))
    made = func(*inner_args, **inner_kwargs)
    given = {id(inner_of(x)): x for x in tensors}  # an operation in place returns the tensor that it was given

    def outer_of(x: Any) -> Any:
        return given[id(x)] if id(x) in given else GpuTensor(x) if isinstance(x, Tensor) else x

    return tree_map(outer_of, made) if on_gpu else made


def inner_of(x: Any) -> Any:
    """The CPU tensor in a GPU tensor; anything else as it is."""
    return x.inner if isinstance(x, GpuTensor) else x


def check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], on_gpu: bool) -> None:
    """Raise :class:`WrongDeviceError` where a GPU would refuse the operation."""
    name = func.overloadpacket.__name__
    if on_gpu and any(isinstance(x, torch.Generator) for x in tree_leaves((args, kwargs))):
        raise WrongDeviceError(f"{name}: expected a 'cuda' device type for generator but found 'cpu'")
    if name in COPIES or not any(isinstance(x, GpuTensor) for x in tensors):
        return
    changed = args[0] if func._schema.is_mutable and args else None
    indices = tree_leaves(args[1]) if name in INDEXING and isinstance(args[0], GpuTensor) else []
    for tensor in tensors:
        allowed = isinstance(tensor, GpuTensor) or any(tensor is index for index in indices)
        number = tensor.dim() == 0 and tensor is not changed and name not in NEVER_MIXED
        if not allowed and not number:
            raise WrongDeviceError(
                f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu"
                f" (a CPU tensor of shape {tuple(tensor.shape)})"
            )


def tensor_to(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``Tensor.to`` that knows the GPU."""

    def to(tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        args = tuple(x for a in args for x in ((a.device, a.dtype) if isinstance(a, Tensor) else (a,)))
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        is_there = isinstance(tensor, GpuTensor)
        if device is None or (device.type == "cuda") == is_there:
            if not is_there:
                return original(tensor, *args, copy=copy, **kwargs)
            return original(tensor, dtype or tensor.dtype, copy=copy, memory_format=layout)
        return original(Move.apply(tensor), dtype or tensor.dtype)

    return to


def module_to(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """``Module.to`` that knows the GPU; weights that are tied stay tied."""

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None:
            original(module, dtype)
        moved: dict[Tensor, Tensor] = {}
        for part in module.modules() if device is not None else ():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.device.type != device.type:
                        if tensor not in moved:
                            there = tensor.detach().to(device)
                            is_weight = isinstance(tensor, nn.Parameter)
                            moved[tensor] = nn.Parameter(there, tensor.requires_grad) if is_weight else there
                        tensors[name] = moved[tensor]
        return module

    return to


def made_on(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` and its like, on the GPU too."""

    def make(*args: Any, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> Tensor:
        made = original(*args, **kwargs)
        made = made if device is None else made.to(device)
        return made.requires_grad_() if requires_grad else made

    return make


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """Pretend inside that this machine has one GPU; all is as it was afterwards."""
    replaced: list[tuple[Any, str, Any]] = [
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "get_rng_state", lambda device: torch.zeros(16, dtype=torch.uint8)),
        (torch.cuda, "set_rng_state", lambda state, device: None),
        (torch.cuda, "get_rng_state_all", lambda: [torch.zeros(16, dtype=torch.uint8)]),
        (torch.cuda, "set_rng_state_all", lambda states: None),
        (torch, "tensor", made_on(torch.tensor)),
        (torch, "as_tensor", made_on(torch.as_tensor)),
        (Tensor, "to", tensor_to(Tensor.to)),
        (Tensor, "cpu", lambda tensor: tensor.to("cpu")),
        (Tensor, "cuda", lambda tensor: tensor.to(GPU)),
        (nn.Module, "to", module_to(nn.Module.to)),
    ]
    with ExitStack() as stack:
        for owner, name, replacement in replaced:
            stack.enter_context(patch.object(owner, name, replacement))
        stack.enter_context(Mode())
        yield
