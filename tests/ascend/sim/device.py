"""A device that computes: real torch_npu over the stand-in for CANN, and aten on the same bytes by the CPU.

Within ``Simulation()`` an aten operator on npu tensors runs on CPU tensors that share their memory; an operator of
torch_npu first goes through its own host code (arguments, shapes, allocation, choice of the kernel), then a double
(doubles.py) computes what the kernel would have. Copies, streams, events, memory and collectives are torch_npu's own.
"""

from __future__ import annotations

import ctypes
import warnings

import torch
import torch_npu  # noqa: F401 - registers the device
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from tests.ascend.sim import order
from tests.ascend.sim.doubles import DOUBLES

# What torch_npu's own code does right without a kernel.
HOST = {
    "aten::" + name for name in ("empty", "empty_strided", "empty_like", "set_", "detach", "record_stream", "resize_")
}
HOST |= {"aten::is_pinned", "aten::_pin_memory", "npu::get_npu_format", "npu::npu_format_cast"}
# Operators whose answer, or its shape, the host has to wait for.
WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
COLLECTIVES = ("c10d::", "_c10d_functional::", "npu_custom_dist::")


def on_npu(x: object) -> bool:
    return isinstance(x, Tensor) and x.device.type == "npu"


def alias(x: Tensor) -> Tensor:
    """A CPU tensor over the same bytes: the simulated device's memory is the host's."""
    storage = x.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    held = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    flat = torch.frombuffer(held, dtype=torch.uint8)
    flat = flat[: storage.nbytes() // x.element_size() * x.element_size()].view(x.dtype)
    return flat.as_strided(x.shape, x.stride(), x.storage_offset())


def stream_of(x: Tensor) -> int:
    return torch.npu.current_stream(x.device).npu_stream


def unfit(x: object) -> bool:
    """Numbers that the device's processors do not compute with: the slow one beside them does, or nobody."""
    return on_npu(x) and (x.dtype.is_complex or x.dtype == torch.float64)


class Simulation(TorchDispatchMode):
    """``calls``: the operators that ran on the device, by name; ``unfit`` those of them that met float64 or complex.

    ``waits``: how often the host waited for numbers of the device.

    Without ``compute`` every operator is left to torch_npu's own host code, which refuses, allocates and launches: the
    kernels' names are all there is to see, and what is in the results is whatever lay in that memory.
    """

    def __init__(self, compute: bool = True) -> None:
        super().__init__()
        self.compute = compute
        self.calls: list[str] = []
        self.unfit: list[str] = []
        self.waits = 0
        self.order = order.Order()
        self.generators: dict[torch.Generator, torch.Generator] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if FakeTensor in types:  # shapes alone: a mode of torch's computes them, behind this one
            return func(*args, **(kwargs or {}))
        if any(kind not in (Tensor, torch.nn.Parameter) for kind in types):
            return NotImplemented  # wrappers unwrap themselves first
        kwargs = kwargs or {}
        name, leaves = func._schema.name, tree_leaves((args, kwargs))
        device = next((x.device for x in leaves if on_npu(x)), None) or next(
            (x for x in leaves if isinstance(x, torch.device) and x.type == "npu"), None
        )
        if device is None:
            return self._on_host(func, leaves, args, kwargs)
        self.calls.append(name)
        if not self.compute:
            with _disable_current_modes():  # a simulation around this one would compute it
                return func(*args, **kwargs)
        out = self._on_device(func, name, device, args, kwargs)
        self.unfit += {f"{name} {x.dtype}" for x in [*leaves, *tree_leaves(out)] if unfit(x)}
        return out

    def _on_device(self, func, name, device, args, kwargs):
        if name.startswith(COLLECTIVES):
            return self._collective(func, name, args, kwargs)
        if func.is_view or name in HOST:
            return without_kernels(func, *args, **kwargs)
        if name == "aten::copy_":
            return self._copy(args[0], args[1], *args[2:], **kwargs)
        if name == "aten::_to_copy":
            return self._to_copy(args[0], **kwargs)
        if name == "aten::_local_scalar_dense":
            return self._to_copy(args[0], device=torch.device("cpu")).item()
        if name.startswith("npu::") and name not in DOUBLES:
            raise NotImplementedError(f"{name} has no double: write one in tests/ascend/sim/doubles.py")
        return self._compute(func, name, device, args, kwargs)

    def _compute(self, func, name, device, args, kwargs):
        self.waits += not WAITS.isdisjoint(func.tags)
        with torch.npu.device(device):
            stream = torch.npu.current_stream().npu_stream
            writes = written(func, args, kwargs)
            reads = [x for x in tree_leaves((args, kwargs)) if on_npu(x) and not any(x is w for w in writes)]
            self.order.touch(stream, reads, writes, name)
            sources: dict[int, Tensor] = {}  # by the address of the storage: results may be views of arguments

            def lowered(x):
                if on_npu(x):
                    sources[order.address(x)] = x
                    return alias(x)
                if isinstance(x, torch.device):
                    return torch.device("cpu")
                return self._generator(x) if isinstance(x, torch.Generator) else x

            def raised(x):
                if not isinstance(x, Tensor):
                    return x
                of = sources.get(order.address(x)) if x.numel() else None
                if of is None:
                    made = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
                    self.order.touch(stream, [], [made], name)
                    alias(made).copy_(x)
                    return made
                same = (of.shape, of.stride(), of.storage_offset()) == (x.shape, x.stride(), x.storage_offset())
                return of if same else of.as_strided(x.shape, x.stride(), x.storage_offset())

            if name in DOUBLES:
                real = func(*args, **kwargs)  # refuses, allocates and launches as on hardware
                fill(real, DOUBLES[name](*tree_map(lowered, args), **tree_map(lowered, kwargs)), name)
                self.order.touch(stream, [], [x for x in tree_leaves(real) if on_npu(x)], name)
                return real
            return tree_map(raised, func(*tree_map(lowered, args), **tree_map(lowered, kwargs)))

    def _copy(self, to: Tensor, of: Tensor, non_blocking: bool = False) -> Tensor:
        """Through torch_npu's own copy where that moves bytes as they are; else by the CPU, with the same waiting."""
        stream = stream_of(to if on_npu(to) else of)
        beside = non_blocking and all(on_npu(x) or x.is_pinned() for x in (to, of))  # pageable memory: the host waits
        within = on_npu(to) and on_npu(of)
        if not within and not beside and order.address(of if on_npu(to) else to):
            self._host_touches([of if on_npu(to) else to])
        self.order.touch(stream, [of], [to], "a copy")
        if to.dtype == of.dtype and to.shape == of.shape and to.is_contiguous() and of.is_contiguous() and not within:
            without_kernels(torch.ops.aten.copy_.default, to, of, beside)
        else:
            (alias(to) if on_npu(to) else to).copy_(alias(of) if on_npu(of) else of)
        if not within and not beside:
            self.waits += on_npu(of)
            torch.npu.current_stream((to if on_npu(to) else of).device).synchronize()
        return to

    def _to_copy(self, x: Tensor, *, dtype=None, device=None, non_blocking=False, memory_format=None, **rest) -> Tensor:
        device = torch.device(device or x.device)
        like = torch.empty_like(
            alias(x) if on_npu(x) else x, dtype=dtype, memory_format=memory_format or torch.preserve_format
        )
        pinned = non_blocking and device.type == "cpu"
        if pinned:  # as torch does: the host may read it only after it waited
            made = torch.empty(like.shape, dtype=like.dtype, pin_memory=True).as_strided(like.shape, like.stride())
        else:
            made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
        return self._copy(made, x, non_blocking)

    def _collective(self, func, name, args, kwargs):
        if name == "c10d::allgather_":
            return self._all_gather(*args, **kwargs)
        order.taken_touches()
        out = without_kernels(func, *args, **kwargs)
        tensors = {x.data_ptr(): x for x in tree_leaves((args, kwargs, out)) if on_npu(x)}
        for touch in order.taken_touches():
            if touch.buffer in tensors:
                x = [tensors[touch.buffer]]
                reads, writes = ([], x) if touch.writes else (x, [])
                self.order.touch(touch.stream, reads, writes, name, touch.tick)
        return out

    def _all_gather(self, outs, ins, group, *rest, **named):
        """Into a list: torch_npu gathers into one tensor, as here, and has kernels copy its parts."""
        (outs,), (x,) = outs, ins
        flat = torch.empty((len(outs), *x.shape), dtype=x.dtype, device=x.device)
        gather = torch.ops.c10d._allgather_base_.default
        _, work = self._collective(gather, gather._schema.name, (flat, x, group, *rest), named)
        work.wait()
        for out, part in zip(outs, flat, strict=True):
            self._copy(out, part)
        return [outs], work

    def _on_host(self, func, leaves, args, kwargs):
        """Work of the host is looked at where it meets memory that a device copies from or into."""
        if not func.is_view and func._schema.name not in HOST:
            self._host_touches(
                [x for x in leaves if isinstance(x, Tensor)], written(func, args, kwargs), func._schema.name
            )
        return func(*args, **kwargs)

    def _host_touches(self, tensors, writes=(), what="a copy"):
        known = [x for x in tensors if x.device.type == "cpu" and self.order.knows(x)]
        if known:
            writes = [x for x in known if any(x is w for w in writes)]
            self.order.touch(order.HOST, [x for x in known if not any(x is w for w in writes)], writes, what)

    def _generator(self, of: torch.Generator) -> torch.Generator:
        """The CPU's generator in its place: its numbers are not those of hardware."""
        if of.device.type == "cpu":
            return of
        return self.generators.setdefault(of, torch.Generator().manual_seed(of.initial_seed()))


def without_kernels(func, *args, **kwargs):
    """Of torch_npu's own, if it launches nothing: kernels compute nothing here."""
    before = len(order.launched())
    out = func(*args, **kwargs)
    missed = order.launched()[before:]
    if missed and func is not torch.ops.c10d.barrier.default:  # which fills a tensor of its own
        raise NotImplementedError(f"{func} launched {', '.join(missed)}, which the simulation does not compute")
    return out


def written(func, args, kwargs) -> list[Tensor]:
    """The tensors that an operator writes into, by its schema."""
    found = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[i] if i < len(args) else kwargs.get(argument.name)
            found += [x for x in tree_leaves(given) if isinstance(x, Tensor)]
    return found


def fill(real, double, name) -> None:
    """Writes a double's results into what torch_npu allocated, which has to be of the same shapes and dtypes."""
    real, double = ([x] if isinstance(x, Tensor) else list(x) for x in (real, double))
    for there, here in zip(real, double, strict=False):
        if isinstance(there, Tensor) and here is not None:
            told = (there.shape, there.dtype) == (here.shape, here.dtype)
            assert told, f"{name}: torch_npu says {there.shape} {there.dtype}, its double {here.shape} {here.dtype}"
            if there.numel():
                alias(there).copy_(here)


# torch_npu's attention calls its kernel without the dispatcher, so that a mode would see neither: it gets one of ours.
LIBRARY = torch.library.Library("sim", "DEF")
LIBRARY.define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? attn_mask=None, float dropout_p=0.0, bool is_causal=False, *, "
    "float? scale=None, bool enable_gqa=False) -> Tensor"
)
LIBRARY.impl("attention", torch.nn.functional.scaled_dot_product_attention, "CPU")
ATTENTION = torch.library.Library("aten", "IMPL")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # says that it replaces torch_npu's
    for key in ("AutogradPrivateUse1", "PrivateUse1"):
        ATTENTION.impl("scaled_dot_product_attention", torch.ops.sim.attention.default, key, allow_override=True)
