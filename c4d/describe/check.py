"""Whether a description fits its model: the same input twice, reused equals computed, with every kind of site.

That finds a loop body that still ran, a stream bound to a wrong name, a residual counted twice. How many blocks a
reused forward enters finds a list that the description does not name. Modules that are said to make each token by
itself are given some of their tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import c4d
from c4d.core.caching.rules import ROWS
from c4d.core.integration.hooks import named
from c4d.core.runtime.token_sites import TokenCall
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.core.types import BLOCKS, MODULE_KINDS, OUTPUT

Forward = Callable[[nn.Module], Any]
ALONE, UNCALLED = "each token by itself: ", "no forward calls it"
FAILURES = (AttributeError, IndexError, KeyError, NameError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what is wrong (None: nothing)."""

    what: str
    wrong: str | None = None


def check(build: Callable[[], nn.Module], spec: ModelSpec, forward: Forward) -> Iterator[Finding]:
    """``build()`` makes the model, the same each time, and ``forward(model)`` calls it, always with the same input."""
    with torch.no_grad():
        uncached = forward(build())
        if not all(torch.equal(a, b) for a, b in zip(uncached, forward(build()), strict=True)):
            yield Finding("the same input gives the same output", "it does not, without any cache: nothing can be told")
            return
        if not any(x.abs().max() > 0 for x in uncached):
            yield Finding("the model returns something", "all of it is zero, and nothing could be told apart")
            return
        if spec.stacks and spec.grid is not None:
            yield Finding("the grid and the tokens at the exit", _grid(build(), spec, forward))
        order = _order(build(), forward)
        if spec.stacks:
            yield Finding("the lists that take part, and their order", _between(spec, order))
        for what, method, entered in _methods(build(), spec, order):
            yield Finding(what, _wrong(build(), spec, forward, method, entered, uncached))
        for name, wrong in by_token(build(), spec, forward).items():
            yield Finding(f"{ALONE}{name}", wrong)


def _order(model: nn.Module, forward: Forward) -> list[str]:
    """The lists whose blocks a forward calls, one for each call."""
    calls: list[str] = []
    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    for path in lists:
        if not any(path.startswith(f"{other}.") for other in lists):
            for block in model.get_submodule(path).children():
                block.register_forward_pre_hook(lambda *_, path=path: calls.append(path))
    forward(model)
    return calls


def _between(spec: ModelSpec, order: list[str]) -> str | None:
    chain, described = {stack.path for stack in spec.chain}, {stack.path for stack in spec.stacks}
    side = {stack.path for stack in spec.stacks if stack.side}
    places = [i for i, path in enumerate(order) if path in chain] or [0]
    for path in order[places[0] : places[-1]]:
        if path not in described:
            return (
                f"blocks of {path!r} run between those of {order[places[0]]!r}, and would do so without effect where "
                "last_blocks= skips those: describe them, Stack(…, interleaved=True)"
            )
    for path in order[places[-1] :]:
        if path in side:
            return f"blocks of {path!r} run behind the last of {order[places[-1]]!r}, where a side stack feeds nothing"
    return None


def _methods(model: nn.Module, spec: ModelSpec, order: list[str]) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """What is looked at, the method, and how many blocks the computed and the reused forward should enter."""
    counts = {stack.path: len(list(model.get_submodule(stack.path).children())) for stack in spec.stacks}
    whole, length = sum(counts.values()), sum(counts[stack.path] for stack in spec.chain)
    yield f"the {OUTPUT}, reused", "taylorseer-lite:interval=2,order=0", (whole, 0)
    if spec.stacks:
        chain, side = {stack.path for stack in spec.chain}, {stack.path for stack in spec.stacks if stack.side}
        order = [path for path in order if path in counts]
        places = [i for i, path in enumerate(order) if path in chain] or [0]
        head = places[0] + 1
        yield f"all {whole} {BLOCKS}, reused", "schedule:computed=0", (whole, 0)
        yield f"the {BLOCKS} behind the first one, reused", "first-block:threshold=1e9,last=0", (whole, head)
        resumed = spec.chain[0].joined == spec.chain[-1].joined and not spec.long_skips
        for last in sorted({1, length - 2} if resumed and length > 2 else ()):
            what = f"the {BLOCKS} between the first and the last" if last == 1 else f"the second of the {BLOCKS} alone"
            start = places[-last:][0]
            entered = head + sum(path in side for path in order[head:start]) + len(order) - start
            yield f"{what}, reused", f"first-block:threshold=1e9,last=0,last_blocks={last}", (whole, entered)
        for signal in spec.signals:
            how = f"teacache:threshold=1e9,coefficients=1/0,signal={signal.value},last=0"
            yield f"the {BLOCKS}, by the {signal.value}", how, (whole, 0)
    for kind in (kind for kind in spec.kinds() if kind not in (BLOCKS, OUTPUT)):
        yield f"{kind} in the blocks, reused", f"fora:interval=2@{kind}", (whole, whole)


def _grid(model: nn.Module, spec: ModelSpec, forward: Forward) -> str | None:
    assert spec.exit is not None and spec.grid is not None
    at_exit, given = list[torch.Size](), dict[str, Any]()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        at_exit.append((args[0] if args else next(iter(kwargs.values()))).shape)

    def bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.update(named(module, args, kwargs))

    handles = [
        model.get_submodule(spec.exit).register_forward_pre_hook(note, with_kwargs=True),
        model.register_forward_pre_hook(bound, with_kwargs=True),
    ]
    try:
        forward(model)
        boxes = spec.grid(model, given)
    except FAILURES as error:
        return " ".join(str(error).split())
    finally:
        for handle in handles:
            handle.remove()
    places, tokens = sum(math.prod(box) for box in boxes), math.prod(at_exit[-1][1:-1])
    return None if places == tokens else f"the grid {boxes} has {places} places for {tokens} tokens"


def _wrong(
    model: nn.Module, spec: ModelSpec, forward: Forward, method: str, entered: tuple[int, int], uncached: list[Tensor]
) -> str | None:
    try:
        with c4d.cached(model, method, spec=spec, backend="cpu") as session:
            session.begin([2.0, 2.0])
            outs = [forward(model), forward(model)]
    except FAILURES as error:
        return " ".join(str(error).split())
    trace = [entry for entry in session.trace if entry.step.branch == session.trace[0].step.branch]  # of one sample
    line = "".join("C" if entry.computed else "r" for entry in trace)
    blocks = tuple(entry.blocks for entry in trace)
    reused = sum(entry.modules_reused for entry in trace)
    if method.startswith("fora"):
        if not reused:
            return "no module of the second forward was reused"
    elif line != "Cr":
        return f"the two forwards should be Cr (computed, reused), and are {line}"
    if blocks != entered:
        should = " and ".join(map(str, entered))
        return f"the forwards entered {' and '.join(map(str, blocks))} blocks, and should have entered {should}"
    for name, out in zip(("computed", "reused"), outs, strict=True):
        far = max(_apart(a, b) for a, b in zip(out, uncached, strict=True))
        if far > 1e-5:
            return f"the {name} output is {far:.1e} away from the uncached one (relative)"
    return None


def by_token(model: nn.Module, spec: ModelSpec, forward: Forward) -> dict[str, str | None]:
    """Site of the blocks that is said to make each token by itself -> what is wrong with that (None: nothing).

    In a ``forward`` of ``model`` each is given every second token alone, too, the last one first, of which it has to
    make what it makes of them among all. The model is not to be used afterwards.
    """
    found: dict[str, str | None] = {}
    for stack in spec.stacks:
        for block in model.get_submodule(stack.path).children():
            for site in (site for kind in ROWS for site in stack.sites.get(kind, ()) if site.partial):
                name, there = f"{stack.path}.{site.output}", dict(block.named_modules()).get(site.output)
                if there is not None:
                    found.setdefault(name, UNCALLED)
                    there.forward = partial(_both_ways, there.forward, found, name)
    forward(model)
    return found


def _both_ways(original: Callable[..., Any], found: dict[str, str | None], name: str, *args: Any, **kwargs: Any) -> Any:
    out, call = original(*args, **kwargs), TokenCall(original, args, kwargs)
    if found[name] in (None, UNCALLED):
        found[name] = _unlike(call, out)
    return out


def _unlike(call: TokenCall, out: Any) -> str | None:
    """How what a module makes of some tokens differs from what it makes of them among all, ``out``."""
    mark = "its Site is one with by_token=False"
    if call.x.ndim != 3 or not isinstance(out, Tensor) or out.ndim != 3 or out.shape[:2] != call.x.shape[:2]:
        shapes = " and ".join(str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in (call.x, out))
        return f"what comes to it and what it returns have no tokens [B, S, D] in common ({shapes}): {mark}"
    rows = torch.arange(call.x.shape[1] - 1, -1, -2)
    try:
        far = _apart(call.on(call.x[:, rows]), out[:, rows])
    except FAILURES as error:
        return f"{mark}: of every second token alone it raises {' '.join(str(error).split())}"
    return (
        f"{mark}: every second token alone is {far:.1e} away from what it is among all (relative)"
        if far > 1e-5
        else None
    )


def _apart(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-12))


def proven(build: Callable[[], nn.Module], spec: ModelSpec, forward: Forward) -> tuple[ModelSpec, list[Finding]]:
    """``spec`` without the kinds of sites that do not fit, and what was found of the rest; those that need all tokens
    are marked."""
    findings = list(check(build, spec, forward))
    whole = {each.what.removeprefix(ALONE) for each in findings if each.wrong and each.what.startswith(ALONE)}
    wrong = {kind for kind in MODULE_KINDS for each in findings if each.wrong and each.what.startswith(f"{kind} ")}
    stacks = [
        replace(
            stack,
            sites={kind: _marked(stack, whole, sites) for kind, sites in stack.sites.items() if kind not in wrong},
        )
        for stack in spec.stacks
    ]
    gone = whole | {f"{s.path}.{site.output}" for s in spec.stacks for kind in wrong for site in s.sites.get(kind, ())}
    left = [each for each in findings if each.what.partition(" ")[0] not in wrong]
    left = [each for each in left if each.what.removeprefix(ALONE) not in gone]
    return replace(spec, stacks=tuple(stacks)), left


def _marked(stack: Stack, whole: Collection[str], sites: Sequence[Site]) -> tuple[Site, ...]:
    """``sites`` of a stack; those whose names are in ``whole`` do not make each token by itself."""
    return tuple(replace(each, by_token=each.by_token and f"{stack.path}.{each.output}" not in whole) for each in sites)
