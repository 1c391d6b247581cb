"""Forwards on the meta device: the primitives that attention and caching need, and what a forward costs there.

Nothing is computed. Operators give tensors that have a shape and a dtype; what they would cost is counted.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from c4d.backends.kernels import Kernel, Limits
from c4d.backends.reference import DTYPES, Reference
from c4d.core.types import Fetching, Parked


class Work(TorchDispatchMode):
    """Counts inside its block: ``flops`` of matrix products and convolutions, ``live`` bytes of what operators have
    made and nobody has let go, and the most of them, ``peak``. What is made while it is ``aside`` has no bytes, nor
    has a view of what was there before and is :meth:`known`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0
        self.aside = False
        self._known: dict[int, Any] = {}
        self._made: dict[Any, list[tuple[torch.Size, tuple[int, ...], torch.dtype]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self._run(func, args, kwargs or {})
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self._hold(x.untyped_storage())
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What it gives; for shapes that it had before made from memory, which is many times faster."""
        key = _key((func, args, tuple(kwargs.items()))) if _is_fresh(func) else None
        if key is not None and (made := self._made.get(key)) is not None:
            empty = [torch.empty_strided(*x[:2], dtype=x[2], device="meta") for x in made]
            return empty[0] if len(func._schema.returns) == 1 else tuple(empty)
        out = func(*args, **kwargs)
        parts = out if isinstance(out, tuple) else (out,)
        if key is not None and all(isinstance(x, Tensor) and x.is_meta for x in parts):
            self._made[key] = [(x.shape, x.stride(), x.dtype) for x in parts]
        return out

    def known(self, *modules: nn.Module) -> None:
        """Tells it of weights, of which operators make views."""
        before, self.aside = self.aside, True
        for module in modules:
            for x in (*module.parameters(), *module.buffers()):
                self._hold(x.untyped_storage())
        self.aside = before

    def _hold(self, storage: Any) -> None:
        key, size = storage._cdata, 0 if self.aside else storage.nbytes()
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, lambda _: self._drop(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _drop(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size


@functools.cache
def _is_fresh(func: Any) -> bool:
    """Whether an operator gives new tensors, each one, and changes none."""
    schema = func._schema
    told = all(each.alias_info is None for each in (*schema.arguments, *schema.returns))
    return told and all(isinstance(each.type, torch.TensorType) for each in schema.returns)


def _key(value: Any) -> Any:
    """What operators on meta tensors can depend on; None if there are others, or what cannot be looked up."""
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype) if value.is_meta else None
    if isinstance(value, list | tuple):
        parts = [_key(each) for each in value]
        return None if any(part is None for part in parts) else (type(value), *parts)
    return type(value), value


class Shapes(Reference):
    """The reference backend for tensors without numbers. Attention adds its two matrix products to ``work``."""

    name = "shapes"

    def __init__(self, work: Work) -> None:
        self._work = work
        about = "what comes out of an attention, and its FLOPs"
        self.attention_kernels: Mapping[str, Kernel] = {"shapes": Kernel(about, Limits(DTYPES), self._attend)}

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
    ) -> tuple[Tensor, Tensor]:
        B, S, H, D = q.shape
        self._work.flops += 4 * B * H * S * k.shape[1] * D
        return torch.empty_like(q), q.new_empty(B, H, S, dtype=torch.float32)

    def offload(self, x: Tensor) -> Parked:
        return Parked(torch.empty_like(x), x.device)

    def begin_fetch(self, parked: Parked) -> Fetching:
        return Fetching(torch.empty_like(parked.tensor))


@dataclass
class _Result:
    """What a module gave for tensors of some shapes: its outputs, its FLOPs, and what it told the ledger."""

    build: Callable[[list[Tensor]], Any]
    flops: int
    told: list[Any]


@dataclass
class Alike:
    """Modules of one make give one result for tensors of one shape: the first of them tells it for all.

    ``told`` is a list to which a forward appends; what it appended is appended again.
    """

    work: Work
    told: list[Any]
    _results: dict[Any, _Result] = field(default_factory=dict)
    _patched: list[nn.Module] = field(default_factory=list)

    def install(self, modules: list[nn.Module]) -> None:
        makes: dict[Any, int] = {}
        for module in modules:
            if "forward" in module.__dict__:
                continue  # somebody else's
            make = makes.setdefault(_make(module), len(makes))
            module.forward = _Remembered(self, make, module)
            self._patched.append(module)

    def remove(self) -> None:
        for module in self._patched:
            del module.forward
        self._patched = []

    def call(self, make: int, module: nn.Module, args: Any, kwargs: Any) -> Any:
        leaves, tree = pytree.tree_flatten((args, kwargs))
        given = [x for x in leaves if isinstance(x, Tensor)]
        others = [repr(x) for x in leaves if not isinstance(x, Tensor)]
        alias = [next(i for i, y in enumerate(given) if y is x) for x in given]
        key = (make, str(tree), *others, *((x.shape, x.dtype, x.stride(), x.device) for x in given), *alias)
        if (found := self._results.get(key)) is not None:
            self.work.flops += found.flops
            self.told += found.told
            return found.build(given)
        flops, told = self.work.flops, len(self.told)
        out = type(module).forward(module, *args, **kwargs)
        self._results[key] = _Result(_builder(out, given), self.work.flops - flops, self.told[told:])
        return out


@dataclass
class _Remembered:
    """The forward of a module whose like has run."""

    alike: Alike
    make: int
    module: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.alike.call(self.make, self.module, args, kwargs)


def _make(module: nn.Module) -> tuple[Any, ...]:
    """What a module's forward can depend on besides its arguments: classes, shapes, and plain attributes."""
    said: list[Any] = []
    for name, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, bool | int | float | str | tuple | type(None))}
        held = {**part._parameters, **part._buffers}
        shapes = {k: x if x is None else (x.shape, x.dtype) for k, x in held.items()}
        said.append((name, type(part), repr(sorted(plain.items())), repr(shapes)))
        processor = getattr(part, "processor", None)
        said.append(type(processor))
    return tuple(said)


def _builder(out: Any, given: list[Tensor]) -> Callable[[list[Tensor]], Any]:
    """Makes what is like ``out``: arguments that are returned, or looked at, and new storages, shared as they were."""
    leaves, tree = pytree.tree_flatten(out)
    theirs = {x.untyped_storage()._cdata: i for i, x in enumerate(given)}

    def part(leaf: Any) -> Callable[[list[Tensor], dict[int, Tensor]], Any]:
        if not isinstance(leaf, Tensor):
            return lambda _, __: leaf
        if (same := next((i for i, x in enumerate(given) if x is leaf), None)) is not None:
            return lambda given, _: given[same]
        storage, view, dtype = leaf.untyped_storage(), (leaf.size(), leaf.stride(), leaf.storage_offset()), leaf.dtype
        key = storage._cdata
        if (whose := theirs.get(key)) is not None and given[whose].dtype == dtype:
            return lambda given, _: given[whose].as_strided(*view)
        size = storage.nbytes()

        def new(_: list[Tensor], made: dict[int, Tensor]) -> Tensor:
            if key not in made:
                made[key] = torch.empty(size // dtype.itemsize, dtype=dtype, device="meta")
            whole = made[key] if made[key].dtype == dtype else made[key].view(dtype)
            return whole.as_strided(*view)

        return new

    parts = [part(leaf) for leaf in leaves]

    def build(given: list[Tensor]) -> Any:
        made: dict[int, Tensor] = {}
        return pytree.tree_unflatten([make(given, made) for make in parts], tree)

    return build
