"""A description of a model, read from one forward: which lists it loops over, what their blocks pass on, the exit.

It sees what the forward does with the tensors of this one call. ``c4d check-model`` proves or refutes what it says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.integration.hooks import parameters
from c4d.core.spec import STREAM, ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models import spec_for
from c4d.models.signals import first, whole

KINDS = {  # names that modules of blocks have, and the kind of site that they are
    "attn": ("attn", "attn1", "self_attn", "attention"),
    "cross_attn": ("attn2", "cross_attn"),
    "mlp": ("ff", "ffn", "mlp", "feed_forward", "ff_context"),
}
USUAL = tuple(name for names in KINDS.values() for name in names)
TIMES = ("temb", "emb", "t_emb", "vec", "adaln_input", "timestep", "time_embedding", "embedded_timestep", "t", "c", "y")


class DerivationError(ValueError):
    """A forward whose blocks cannot be told from what it calls."""


@dataclass
class Call:
    """A module's forward: its arguments by name, those by position, what it returned, and when it began and ended."""

    path: str
    named: Mapping[str, Any]
    positional: int
    begun: int
    ended: int = 0
    out: Any = None

    @property
    def outputs(self) -> list[Tensor]:
        given = self.out if isinstance(self.out, tuple | list) else (self.out,)
        return [x for x in given if isinstance(x, Tensor)]


@dataclass
class Watch:
    """Every call of every module inside a forward."""

    calls: list[Call] = field(default_factory=list)
    _open: list[Call] = field(default_factory=list)
    _clock: int = 0

    def on(self, model: nn.Module) -> list[Any]:
        handles = []
        for path, module in model.named_modules():
            if path:
                handles.append(module.register_forward_pre_hook(self._before(path), with_kwargs=True))
                handles.append(module.register_forward_hook(self._after))
        return handles

    def _before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = {**dict(zip(_names(module), args, strict=False)), **kwargs}
            self._clock += 1
            self._open.append(Call(path, named, len(args), self._clock))
            self.calls.append(self._open[-1])

        return hook

    def _after(self, module: nn.Module, args: Any, out: Any) -> None:
        self._clock += 1
        call = self._open.pop()
        call.ended, call.out = self._clock, out


def derive(model: nn.Module, forward: Callable[[], Any], known: ModelSpec | None = None) -> ModelSpec:
    """The description of ``model`` that one ``forward()`` shows; ``known`` says what its arguments are called.

    Raises :class:`DerivationError` where it loops over no ``ModuleList`` whose blocks hand a tensor on to each other
    and to a module behind them, and UnsupportedModelError for what denoises nothing.
    """
    watch, known = Watch(), known or spec_for(model)
    handles = watch.on(model)
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    lists = list(_lists(model, watch.calls))
    if not lists:
        raise DerivationError(f"{type(model).__name__} loops over no nn.ModuleList, each block of it once")
    exit_call, shape = _exit(model, watch.calls, lists[-1][1][-1])
    chain = [lists[-1]]
    for path, calls in reversed(lists[:-1]):
        next_one = chain[0][1][0].named.values()
        if not any(x.shape == shape or any(x is y for y in next_one) for x in calls[-1].outputs):
            break
        chain.insert(0, (path, calls))
    part = _part(lists[-1][1][-1].outputs, next(iter(exit_call.named.values())))
    streams = [_stack(model, path, calls, shape, part) for path, calls in chain]
    begin = chain[0][1][0]
    return ModelSpec(
        type(model).__name__,
        stacks=tuple(streams),
        exit=exit_call.path,
        signals=_signals(watch.calls, begin, begin.named[_stream(chain[0][1], shape)]),
        latents=known.latents,
        timestep=known.timestep,
    )


def _lists(model: nn.Module, calls: Sequence[Call]) -> Iterator[tuple[str, list[Call]]]:
    """The lists whose blocks are each called once, in their order, outside of other lists; by when they end.

    The parts of an MLP may lie in a list as well; blocks have an argument of the same name.
    """
    found: list[tuple[str, list[Call]]] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{other}.") for other, _ in found):
            continue
        paths = [f"{path}.{name}" for name in module._modules]
        theirs = [call for call in calls if call.path in paths]
        common = set.intersection(*(set(call.named) for call in theirs)) if theirs else set()
        if common and [call.path for call in theirs] == paths:
            found.append((path, theirs))
    yield from sorted(found, key=lambda each: each[1][-1].ended)


def _exit(model: nn.Module, calls: Sequence[Call], last: Call) -> tuple[Call, torch.Size]:
    """The first module behind the last block that takes what it returned, or a part of that; and its shape."""
    widths = {x.shape[-1] for x in last.outputs}
    for call in calls:
        given = next(iter(call.named.values()), None)
        if call.begun > last.ended and isinstance(given, Tensor) and given.ndim >= 3 and given.shape[-1] in widths:
            return call, given.shape
    raise DerivationError(f"behind {last.path} no module takes what it returned: the exit cannot be told")


def _part(outputs: Sequence[Tensor], left: Tensor) -> str | None:
    """Which tokens of what the last block returned reach the exit: None for all of them."""
    n = left.shape[1]
    for x in (x for x in outputs if x.ndim == left.ndim and x.shape[1] > n):
        if torch.equal(x[:, -n:], left):
            return "last"
        if torch.equal(x[:, :n], left):
            return "first"
    return None


def _stack(model: nn.Module, path: str, calls: Sequence[Call], shape: torch.Size, part: str | None) -> Stack:
    block, stream = calls[0], _stream(calls, shape)
    given = list(block.named)
    names = [STREAM if name == stream else name for name in given[: block.positional]]
    if stream in given[block.positional :] and stream != STREAM:
        raise DerivationError(f"the blocks of {path!r} are called with {stream}= by keyword, which has to be {STREAM}=")
    returns = _returns(calls, stream)
    joined = part if block.named[stream].shape != shape else None
    return Stack(path, tuple(names) or (STREAM,), returns, _sites(model, calls), joined=joined)


def _stream(calls: Sequence[Call], shape: torch.Size) -> str:
    """The argument that is cached: the one that a block hands on, of the shape of the exit where there are several."""
    handed, _ = _handed(calls)
    if not handed:
        raise DerivationError(
            f"the blocks up to {calls[-1].path} hand no tensor on to each other (it is changed between them, or "
            "another list's blocks take turns with them)"
        )
    given = calls[0].named
    like = [name for name in handed if isinstance(x := given.get(name), Tensor) and x.shape == shape]
    if like:
        return STREAM if STREAM in like else like[0]
    return max(handed, key=lambda name: given[name].numel() if isinstance(given.get(name), Tensor) else 0)


def _handed(calls: Sequence[Call]) -> tuple[list[str], int]:
    """The arguments that come out of the block before, and a block of which most do.

    Of a single block those of the same shape as an output.
    """
    if len(calls) == 1:
        shapes = [x.shape for x in calls[0].outputs]
        return [name for name, x in calls[0].named.items() if isinstance(x, Tensor) and x.shape in shapes], 0
    found: list[tuple[list[str], int]] = [
        ([name for name, x in other.named.items() if any(x is out for out in one.outputs)], i + 1)
        for i, (one, other) in enumerate(pairwise(calls))
    ]
    best, i = max(found, key=lambda each: len(each[0]))  # between some blocks a stream may be changed
    return best, i if best else 0


def _returns(calls: Sequence[Call], stream: str) -> tuple[str, ...]:
    handed, i = _handed(calls)
    if i == 0:
        return (STREAM,)
    names = []
    for out in calls[i - 1].outputs:
        name = next((name for name in handed if calls[i].named[name] is out), None)
        if name is None:
            raise DerivationError(f"a block of {calls[0].path} returns a tensor that the next one does not take")
        names.append(STREAM if name == stream else name)
    return tuple(names)


def _sites(model: nn.Module, calls: Sequence[Call]) -> dict[str, tuple[Site, ...]]:
    """By the names that such modules have; only what each block has."""
    blocks = [dict(model.get_submodule(call.path).named_children()) for call in calls]
    found = {
        kind: [n for n in names if all(block.get(n) is not None for block in blocks)] for kind, names in KINDS.items()
    }
    return {kind: tuple(Site(name) for name in names) for kind, names in found.items() if names}


def _signals(calls: Sequence[Call], block: Call, stream: Tensor) -> dict[Signal, OutputOf]:
    """The embedded timestep, or what it is projected to: what the blocks get under such a name, and a module before
    them returned."""
    for name, x in block.named.items():
        if name not in TIMES or not isinstance(x, Tensor) or x.ndim > 3:
            continue
        wide = x.shape[-1] > stream.shape[-1] and x.shape[-1] % stream.shape[-1] == 0
        for call in (call for call in calls if call.ended < block.begun):  # the outermost first
            parts = call.out if isinstance(call.out, tuple) else ()
            for read, out in ((whole, call.out), (first, parts[0] if parts else None)):
                if out is x:
                    return {Signal.TIME_PROJECTION if wide else Signal.TIME_EMBEDDING: OutputOf(call.path, read)}
    return {}


def _names(module: nn.Module) -> list[str]:
    """Of a forward's arguments by position; ``*args`` has as many as there are."""
    kinds = inspect.signature(type(module).forward).parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in kinds):
        return [*parameters(module), *(f"argument_{i}" for i in range(16))]
    return parameters(module)


def _site(site: Site) -> str:
    return f"Site({site.output!r}{'' if site.by_token else ', by_token=False'})"


def text_of(spec: ModelSpec) -> str:
    """The description as the Python that makes it."""
    lines = [f"ModelSpec(\n    {spec.transformer!r},\n    stacks=("]
    for stack in spec.stacks:
        listed = {kind: "".join(f"{_site(site)}, " for site in sites) for kind, sites in stack.sites.items()}
        sites = ", ".join(f"{kind!r}: ({text[:-1]})" for kind, text in listed.items())
        lines.append(
            f"        Stack({stack.path!r}, takes={stack.takes!r}, returns={stack.returns!r}, sites={{{sites}}}"
            f"{f', joined={stack.joined!r}' if stack.joined else ''}),"
        )
    if not any(stack.sites for stack in spec.stacks):
        lines.append(f"        # no sites: name what is attention or MLP in them; usual names are {', '.join(USUAL)}")
    lines.append(f"    ),\n    exit={spec.exit!r},")
    for signal, reader in spec.signals.items():
        if isinstance(reader, OutputOf):
            lines.append(f"    # from c4d.models.signals import {reader.read.__name__}")
            lines.append(f"    signals={{{signal}: OutputOf({reader.module!r}, {reader.read.__name__})}},")
    lines += [f"    latents={spec.latents!r},"] if spec.latents != STREAM else []
    lines += [f"    timestep={spec.timestep!r},"] if spec.timestep != "timestep" else []
    return "\n".join([*lines, ")"])
