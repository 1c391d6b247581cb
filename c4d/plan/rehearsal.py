"""A request of a pipeline without numbers: which components it calls, with what, and what it holds meanwhile.

The pipeline's own code runs, on the host and with zeros. Its components run on the meta device: each takes tensors
that have a shape alone, and gives back zeros of the shape that it would give.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.core.integration.hooks import named
from c4d.core.integration.transformers import transformers_of
from c4d.memory_modes.mode import HOST, modules_of
from c4d.models import spec_for
from c4d.plan.run import PlanError
from c4d.plan.shapes import Work

STEPS = 2  # of a rehearsal: the second expert of a pipeline is called in the last one
ENTRANCES = ("__call__", "encode", "decode", "get_text_features", "get_image_features")
YES_OR_NO = torch.ops.aten._local_scalar_dense.default


@dataclass
class Called:
    """A call of the component ``name``: bytes that the pipeline holds ``around`` it, and the most from its begin to
    that of the next, ``peak``; weights are in neither. ``given`` to the forward of a transformer, by name."""

    name: str
    around: int
    peak: int = 0
    given: Mapping[str, Any] | None = None


class Like(NamedTuple):
    """What is left of a tensor."""

    shape: torch.Size
    dtype: torch.dtype


def without_numbers(pipe: Any) -> Any:
    """A copy of ``pipe`` whose weights are on the meta device."""
    memo: dict[int, Any] = {}
    for part in modules_of(pipe).values():
        for x in part.parameters():
            memo[id(x)] = nn.Parameter(x.detach().to("meta"), x.requires_grad)
        for buffer in part.buffers():
            memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(pipe, memo)


def rehearsed(pipe: Any, call: Mapping[str, Any]) -> list[Called]:
    """The calls that ``pipe(**call)`` makes in two steps; ``pipe`` is one :func:`without_numbers`.

    Raises :class:`PlanError` for a pipeline that asks its components for numbers.
    """
    parameters = signature(pipe.__call__).parameters
    fewer = {"num_inference_steps": STEPS} if "num_inference_steps" in parameters else {}
    kind = {"output_type": "pt"} if "output_type" in parameters else {}
    pipe.set_progress_bar_config(disable=True)
    log = Log(pipe)
    try:
        with torch.no_grad(), log.listening(), log:
            pipe(**{**call, **kind, **fewer})
    except Exception as error:  # of whatever looks at numbers that are not there
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = f" in or after its {log.calls[-1].name}" if log.calls else ""
        raise PlanError(f"{type(pipe).__name__} cannot be rehearsed without numbers{where}: {said}") from error
    log.end()
    return log.calls


class Log(Work):
    """Counts, and notes the calls of the components of ``pipe``."""

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.calls: list[Called] = []
        self.inside = False
        self._parts, self._denoisers = modules_of(pipe), transformers_of(pipe)
        self.known(*self._parts.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is YES_OR_NO and args[0].is_meta and args[0].dtype is torch.bool:
            return False  # such as: has every token of the mask a part in it
        return super().__torch_dispatch__(func, types, args, kwargs)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Has calls of the components come here first, and has the components say that they are on the host."""
        classes = {name: type(part) for name, part in self._parts.items()}
        try:
            for name, part in self._parts.items():
                part.__class__ = _stand_in(self, name, classes[name])
            yield
        finally:
            for name, part in self._parts.items():
                part.__class__ = classes[name]

    def end(self) -> None:
        """The last call, and what the pipeline did with its result, is over."""
        if self.calls:
            self.calls[-1].peak = self.peak

    def called(self, name: str, forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self.end()
        self.peak = self.live
        self.calls.append(Called(name, self.live, given=self._given(name, args, kwargs)))
        self.aside = True
        args, kwargs = changed((args, kwargs), lambda x: x.to("meta"))
        self.aside, self.inside = False, True
        try:
            out = changed(forward(*args, **kwargs), lambda x: Like(x.shape, x.dtype))
        finally:
            self.inside = False
        return changed(out, lambda like: torch.zeros(like.shape, dtype=like.dtype), Like)

    def _given(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A copy of the arguments of a transformer, which holds on to nothing of the pipeline's."""
        if name not in self._denoisers:
            return None
        self.aside = True
        given: Mapping[str, Any] = changed(named(self._denoisers[name], args, kwargs), Tensor.clone)
        self.aside = False
        return given


def _stand_in(log: Log, name: str, cls: type[nn.Module]) -> type[nn.Module]:
    """A class of that name whose instances tell ``log`` of each call, and are on the host while they are not called."""

    def entrance(forward: Callable[..., Any]) -> Callable[..., Any]:
        def enter(self: Any, *args: Any, **kwargs: Any) -> Any:
            bound = forward.__get__(self)
            return bound(*args, **kwargs) if log.inside else log.called(name, bound, args, kwargs)

        return enter

    there = {each: entrance(getattr(cls, each)) for each in ENTRANCES if callable(getattr(cls, each, None))}
    if isinstance(device := getattr(cls, "device", None), property):
        there["device"] = property(lambda self: device.__get__(self) if log.inside else HOST)  # type: ignore[assignment]
    return type(cls.__name__, (cls,), {"__module__": cls.__module__, **there})


def changed(value: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """``value`` with ``change(x)`` for every x of that ``kind`` in it, also in plain objects (a distribution)."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, kind):
            return change(leaf)
        held = {k: x for k, x in getattr(leaf, "__dict__", {}).items() if isinstance(x, kind)}
        if not held or isinstance(leaf, nn.Module | torch.Generator):
            return leaf
        made = copy.copy(leaf)
        vars(made).update({k: change(x) for k, x in held.items()})
        return made

    return pytree.tree_map(one, value, is_leaf=lambda x: isinstance(x, kind))


def worst(calls: Sequence[Called], name: str, pipe: Any) -> tuple[Mapping[str, Any], int]:
    """Of the transformer ``name``: the arguments of its first step that have most bytes, and how many calls a step has.

    Raises :class:`PlanError` for more than two.
    """
    transformer = transformers_of(pipe)[name]
    own = [call.given for call in calls if call.name == name and call.given is not None]
    time = spec_for(transformer).timestep
    first = [given for given in own if _same(given.get(time), own[0].get(time))]
    if len(first) > 2:
        raise PlanError(
            f"{type(pipe).__name__} calls its {name} {len(first)} times a step, and c4d plans for 1 or 2 (guidance)"
        )
    return max(first, key=lambda given: sum(x.nbytes for x in pytree.tree_leaves(given) if isinstance(x, Tensor))), len(
        first
    )


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else bool(one == other)
