"""A generation on the meta device: every forward of it with its cost, and what a cache holds at the end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.backends.kernels import Call, choose
from c4d.core.attention import Attend
from c4d.core.caching.rules import CacheMethod
from c4d.core.integration.processor_patch import AttentionSession
from c4d.core.runtime.history import HistoryConfig
from c4d.core.runtime.session import Session
from c4d.core.runtime.steps import NoClock
from c4d.core.spec import ModelSpec
from c4d.core.types import BLOCKS, OUTPUT
from c4d.plan.ranks import STILL, PlannedRanks
from c4d.plan.shapes import Alike, Shapes, Work
from c4d.plan.traffic import COMPARED, Branch, Sent

BRANCHES = ("cond", "uncond")


class PlanError(ValueError):
    """What cannot be planned, why, and the way out."""


@dataclass(frozen=True)
class Setup:
    """What is planned: a transformer on the meta device, the arguments of its forward, a method, a number of steps.

    ``branches``: how many calls of guidance a step has, 1 or 2. ``storage`` is how features are kept.
    """

    transformer: nn.Module
    spec: ModelSpec
    arguments: Mapping[str, Any]
    method: CacheMethod | None
    steps: int
    branches: int = 1
    storage: HistoryConfig = field(default_factory=HistoryConfig)


@dataclass(frozen=True)
class Passed:
    """One forward: whether it was computed ("C"), partly ("p"), or reused ("r"), its FLOPs but for attentions to tokens
    that are spread over ranks, and what it exchanges."""

    step: int
    did: str
    flops: int
    told: tuple[Sent, ...]


@dataclass(frozen=True)
class Run:
    """The forwards of one rank, the bytes that its cache holds when it holds most, those of them that are
    ``on_device``, and those of intermediate results beside it at the worst moment. ``tokens`` of a forward that are
    spread over ranks, 0 if none can be."""

    forwards: tuple[Passed, ...]
    cache: int
    on_device: int
    activations: int
    tokens: int

    def timeline(self) -> str:
        return "".join(each.did for each in self.forwards)


def on_meta(value: Any) -> Any:
    """The same without numbers."""
    return pytree.tree_map_only(Tensor, lambda x: x.to("meta"), value)


def run(setup: Setup, ranks: int = 1, *, change: float = STILL, apart: bool = False) -> Run:
    """The generation of ``setup`` on the first of ``ranks`` that share its tokens.

    ``change``: what every signal is found to have changed by. ``apart``: each branch of guidance has ranks of its own.
    Raises :class:`PlanError` for a model or a method that asks for numbers.
    """
    try:
        return _run(setup, ranks, change, apart)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        with_what = "" if setup.method is None else f" with {setup.method.name}"
        raise PlanError(
            f"{setup.spec.transformer}{with_what} cannot be planned for {ranks} rank{'s' if ranks > 1 else ''} without "
            f"numbers: {str(error).splitlines()[0]}"
        ) from error


def _run(setup: Setup, ranks: int, change: float, apart: bool) -> Run:
    work, told = Work(), list[Sent]()
    shapes, transformer = Shapes(work), setup.transformer
    spec, inputs = _known_grid(setup), dict(on_meta(setup.arguments))
    alike = Alike(work, told)
    attention = AttentionSession({"transformer": (transformer, spec)}, "auto", shapes, partial(_resolve, shapes))
    attention.unused = None
    planned = PlannedRanks(attention, shapes, ranks, told, change)
    session = None
    if setup.method is not None:
        session = Session(
            [(transformer, spec)], setup.method, clock=NoClock(), backend=shapes, storage=setup.storage, ranks=planned
        )
    forwards, tokens, cache, on_device = list[Passed](), 0, 0, 0
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        alike.install(_modules(setup))
        stack.callback(alike.remove)
        stack.enter_context(planned)
        if session is not None:
            stack.enter_context(session)
            session.begin(_timesteps(setup.steps), _sigmas(setup.steps))
        work.known(transformer)
        stack.enter_context(work)
        names = BRANCHES[:1] if apart else BRANCHES[: setup.branches]
        for step in range(setup.steps):
            for name in names:
                told.clear()
                before = work.flops
                if session is not None:
                    session.name = name if setup.branches > 1 else None
                out = transformer(**inputs)
                told += _of_branches(setup, step, out) if apart else []
                did = session.trace[-1].did if session is not None else "C"
                tokens = tokens or max((getattr(each, "tokens", 0) for each in told), default=0)
                forwards.append(Passed(step, did, work.flops - before, tuple(told)))
                del out
            if session is None and step == min(int(apart), setup.steps - 1):  # and so they go on
                forwards += [Passed(k, *_rest(forwards[-1])) for k in range(step + 1, setup.steps) for _ in names]
                break
        if session is not None:
            report = session.report()
            cache, on_device = report.peak_bytes, report.device_bytes
    return Run(tuple(forwards), cache, on_device, max(0, work.peak - cache), tokens)


def _rest(passed: Passed) -> tuple[str, int, tuple[Sent, ...]]:
    return passed.did, passed.flops, passed.told


def _of_branches(setup: Setup, step: int, out: Any) -> list[Sent]:
    """What groups of ranks for the branches exchange besides: both calls of the first step are compared everywhere."""
    if step == 0:
        return [COMPARED] if setup.method is not None else []
    return [Branch(sum(x.nbytes for x in pytree.tree_leaves(out) if isinstance(x, Tensor)))]


def _known_grid(setup: Setup) -> ModelSpec:
    """The spec, with a grid that was read while the arguments had numbers."""
    if setup.spec.grid is None:
        return setup.spec
    found = setup.spec.grid(setup.transformer, setup.arguments)
    return replace(setup.spec, grid=lambda *_: found)


def _modules(setup: Setup) -> list[nn.Module]:
    """Those of which one stands for its like: the blocks, or what is in them where a rule looks inside."""
    blocks = [b for s in setup.spec.stacks for b in setup.transformer.get_submodule(s.path).children()]
    sites = () if setup.method is None else setup.method.rules
    inside = any(site not in (BLOCKS, OUTPUT) for rule in sites for site in rule.sites)
    return [part for block in blocks for part in block.children()] if inside else blocks


def _resolve(shapes: Shapes, dtype: torch.dtype, heads: int, size: int, masked: bool) -> tuple[str, Attend]:
    kernel = choose(shapes.attention_kernels, Call(dtype, size, heads=heads))

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return kernel.run(q, k, v, mask, None, False, False)[0]

    return "shapes", attend


def _sigmas(steps: int) -> list[float]:
    return [1.0 - k / steps for k in range(steps)]


def _timesteps(steps: int) -> list[float]:
    return [1000.0 * sigma for sigma in _sigmas(steps)]
