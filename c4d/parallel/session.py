"""Several ranks at work on the transformers of one pipeline, while a ``with`` block lasts."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import fsum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from c4d.backends import Backend
from c4d.backends.kernels import Call, choose, name_of
from c4d.core.attention import compute_dtype
from c4d.core.integration.attach import session_of
from c4d.core.integration.hooks import Entered, Hooks, Layer, Unsaved, named
from c4d.core.integration.processor_patch import AttentionSession, ProcessorPatch
from c4d.core.runtime.signals import SingleProcess
from c4d.core.runtime.steps import SchedulerTracker, position
from c4d.core.spec import Stack
from c4d.core.types import Step
from c4d.parallel.agree import Agreement
from c4d.parallel.attention import Kernels
from c4d.parallel.branches import PAIRS, CFGParallel
from c4d.parallel.collectives import Group
from c4d.parallel.degrees import Degrees
from c4d.parallel.mesh import Mesh
from c4d.parallel.sharding import Sharding, check_whole
from c4d.parallel.tiles import TiledDecoding, said
from c4d.parallel.watch import LostRankError, Watch

T = TypeVar("T")


class Parallel(Entered, Unsaved):
    """Spreads the transformers of ``attention`` over the ranks of ``mesh``; made by :func:`c4d.sharded`.

    Every rank gets the whole result. What it holds of a cache is its own part of the tokens. ``join()`` makes the mesh,
    ``ungroup`` ends a group of it; ``pipeline`` (None: a loop of one's own) has the scheduler that tells the steps, and
    the VAE; ``passed_on``: the kernels that give partial results (of a ring); ``watched(group)`` the heartbeats of the
    ranks of a request.
    """

    def __init__(
        self,
        attention: AttentionSession,
        join: Callable[[], Mesh],
        ungroup: Callable[[Any], None],
        kernels: Kernels,
        pipeline: Any,
        jointly: bool,
        passed_on: Sequence[str],
        watched: Callable[[Any], Watch | None] = lambda group: None,
    ) -> None:
        self.attention, self._join, self._ungroup, self._passed_on = attention, join, ungroup, passed_on
        self._kernels, self._pipeline, self.jointly, self._watched = kernels, pipeline, jointly, watched
        scheduler = self._scheduler = None if pipeline is None else pipeline.scheduler
        self._clock = SchedulerTracker(lambda: scheduler, checked=False) if hasattr(scheduler, "step_index") else None
        self._hooks = Hooks(Layer.AGREEMENT)
        self._at: int | None = None  # the step of the last call
        self._watch: Watch | None = None
        self._spread()
        attention.unused, self.unused = None, "c4d.sharded"

    def _spread(self) -> None:
        mesh, fittings = self._join(), self.attention.fittings
        self.mesh, self._left = mesh, False
        self._together = None if mesh.request is None else self._agreement_of(mesh.request)
        self._agreement = None if mesh.sequence is None else self._agreement_of(mesh.sequence)
        self._deciding = (self._together if self.jointly else self._agreement) or SingleProcess()
        place = None if self._scheduler is None else partial(position, self._scheduler)
        self._branchings = [CFGParallel(fitting.transformer, mesh.cfg, place) for fitting in fittings if mesh.cfg]
        self._shardings = [self._sharding_of(fitting) for fitting in fittings if mesh.sequence]
        self._tiles: TiledDecoding | None = None
        if mesh.request is not None and TiledDecoding.fits(self._pipeline):
            self._tiles = TiledDecoding(self._pipeline, mesh.request)

    def _agreement_of(self, group: Group) -> Agreement:
        """Of those ranks."""
        return Agreement(group, self.mesh.degrees.sequence)

    def _sharding_of(self, fitting: ProcessorPatch) -> Sharding:
        """Of a transformer."""
        return Sharding(fitting, self.mesh, self._kernels)

    def __enter__(self) -> Parallel:
        if self._left:  # by all ranks, with their groups
            self._spread()
        self.unused = None
        self.attention.__enter__()
        try:
            for fitting in self.attention.fittings if self._shardings else ():
                check_whole(fitting)
            for sharding in self._shardings:
                sharding.install()
            for fitting in self.attention.fittings:
                self._hooks.before(fitting.transformer, self.enter, fitting.transformer)
            for branching in self._branchings:
                branching.install()
            if self._tiles is not None:
                self._tiles.install()
        except BaseException:
            self._remove()
            raise
        if self.mesh.request is not None:
            self._watch = self._watched(self.mesh.request.handle)
        if self._watch is not None:
            me = weakref.ref(self)  # neither the thread nor the end of the process is to keep the model
            self._watch.step = lambda: getattr(me(), "step", None)
            self._unwatch = weakref.finalize(self, self._watch.leave, None)
            self._watch.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, *exc: object) -> None:
        halves = [branching for branching in self._branchings if branching.halfway]
        self._remove()
        watch, self._watch = self._watch, None
        lost = None if watch is None else watch.leave(error)
        if watch is not None:
            self._unwatch.detach()
        if lost is not None and not isinstance(error, LostRankError):
            raise LostRankError(lost) from error
        if kind is not None:  # others may be in a group, or wait there for this rank: ending it could wait for them
            return
        self._left = True
        for group in self.mesh.ours:
            self._ungroup(group)
        if halves:
            raise RuntimeError(f"{PAIRS}; the last one made a single call, whose numbers not all ranks have: use cfg=1")

    def _remove(self) -> None:
        for branching in self._branchings:
            branching.remove()
        for sharding in self._shardings:
            sharding.remove()
        self._hooks.remove()
        if self._tiles is not None:
            self._tiles.remove()
        self.attention.__exit__()

    @property
    def step(self) -> int | None:
        """Of the last call, from 0; None before it, and in a loop of one's own without a cache."""
        return self._at

    @property
    def collectives(self) -> int:
        """How many were made to agree on decisions."""
        return sum(agreement.calls for agreement in (self._agreement, self._together) if agreement is not None)

    def each(self, value: T) -> list[T]:
        """That of every rank of this request, in their order, on all of them; every one of them has to ask for it."""
        if self.mesh.request is None:
            return [value]
        told: list[Any] = [None] * self.mesh.request.size
        dist.all_gather_object(told, value, group=self.mesh.request.handle)
        return told

    def common(self, numbers: Sequence[float]) -> list[float]:
        """Those of the first rank, as :meth:`each`."""
        return self.each(list(numbers))[0]

    def mean(self, number: float) -> float:
        """Of a number of each rank, as :meth:`each`."""
        numbers = self.each(number)
        return fsum(numbers) / len(numbers)

    def said(self) -> str:
        """How ranks are divided, who made their groups, which kernels give partial results, and who decodes tiles of
        the VAE."""
        where = "attention in the ring" if self.mesh.degrees.ring > 1 else "partial results"
        through = f"; {where} through {' and '.join(self._passed_on)}" if self._passed_on else ""
        decoding = said(self._pipeline, self._tiles is not None) if self.mesh.request is not None else ""
        return f"{self.mesh.degrees}; groups by {self.mesh.made_by}{through}{decoding}"

    def lines(self) -> list[str]:
        """:meth:`said`, and what computes the attention."""
        return [self.said(), *self.attention.lines()]

    # -- called by its hooks

    def enter(self, transformer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Before a forward: a cache says itself where it stands."""
        if self._watch is not None:
            self._watch.check()
        if self._together and self._clock and session_of(transformer) is None:
            _, step = self._clock.tick(None, named(transformer, args, kwargs).get("timestep"))
            self.compare(transformer, "no cache", step, args, kwargs)

    # -- for a cache session

    def compare(
        self, transformer: nn.Module, method: str, step: Step, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Raises on every rank, before a block runs, unless all make the same call with nearly the same arguments.

        When it compares, and which mistake that finds:

        - step 0, each call: other prompts, other noise;
        - start of step 1: a rank that calls the model fewer times a step;
        - start of step 2: a loop that read a placeholder before the other group had filled it;
        - start of the last step: latents that moved apart meanwhile.

        Never between the calls of those later steps, where the groups of a joint decision arrive in another order.
        """
        begins, self._at = step.index != self._at, step.index
        if self._together and (step.index == 0 or (begins and step.index in (1, 2, step.total - 1))):
            call = f"{method}, step {step.index + 1} of {step.total}, branch {step.branch}"
            self._together.check(call, named(transformer, args, kwargs))

    @property
    def branches_apart(self) -> bool:
        return self.mesh.cfg is not None

    def runs_elsewhere(self, transformer: nn.Module) -> bool:
        return any(b.transformer is transformer and b.runs_elsewhere for b in self._branchings)

    def begin(
        self, transformer: nn.Module, stack: Stack, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        sharding = self._sharding(transformer)
        return sharding.begin(stack, args, kwargs) if sharding else (args, kwargs)

    def local_args(self, transformer: nn.Module, stack: Stack, named: Mapping[str, Any]) -> Mapping[str, Any]:
        sharding = self._sharding(transformer)
        return sharding.local_args(stack, named) if sharding else named

    def unpadded(self, transformer: nn.Module, x: Tensor, spread: bool = True) -> tuple[Tensor, int]:
        sharding = self._sharding(transformer)
        return sharding.unpadded(x, spread) if sharding else (x, x.numel())

    def all_sum(
        self, partial: Tensor, counts: Sequence[tuple[int, int]], failed: bool, apart: bool = False
    ) -> list[list[float]]:
        who = (self._agreement or SingleProcess()) if apart else self._deciding
        return who.all_sum(partial, counts, failed)

    def project(self, transformer: nn.Module, basis: Tensor, x: Tensor) -> Tensor:
        sharding = self._sharding(transformer)
        return sharding.project(basis, x) if sharding else SingleProcess().project(transformer, basis, x)

    def own(self, transformer: nn.Module, x: Tensor) -> Tensor:
        sharding = self._sharding(transformer)
        return sharding.cut(x, 0) if sharding else x

    def _sharding(self, transformer: nn.Module) -> Sharding | None:
        """None where each rank has all tokens: one rank for each branch of guidance."""
        return next((each for each in self._shardings if each.transformer is transformer), None)


def partial_kernels(
    attention: AttentionSession, backend: Backend, kernel: str, degrees: Degrees, dtype: torch.dtype | None = None
) -> list[str]:
    """The names of those that give partial results where these degrees ask for some, for the heads of every attention.

    ``dtype``: what they compute in, None: what the transformers do. Raises :class:`UnsupportedError` if there are none.
    """
    if degrees.sequence == 1:
        return []
    kernels = backend.attention_kernels
    calls = {
        Call(dtype or compute_dtype(None, fitting.transformer), size, lse=True, heads=heads)
        for fitting in attention.fittings
        if degrees.ring > 1 or fitting.merges
        for heads, size in fitting.heads_of
    }
    return sorted({name_of(kernels, choose(kernels, call, kernel)) for call in calls})
