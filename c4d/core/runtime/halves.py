"""A call with both branches of guidance in one batch: made as a call of each, of which one may be spared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import nn

from c4d.core.integration.attach import ModuleSite
from c4d.core.integration.hooks import at_work, parameters
from c4d.core.integration.offload import Bridge
from c4d.core.integration.processor_patch import ProcessorPatch
from c4d.core.runtime.forward import Forward
from c4d.core.runtime.guidance import BATCHED, Answer
from c4d.core.runtime.outputs import Structure, of_rows, of_samples
from c4d.core.runtime.report import Entry
from c4d.core.runtime.state import CacheState
from c4d.core.spec import ModelSpec
from c4d.core.types import Action, Step

Inner = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Begins(Protocol):
    """What a session does for it."""

    current: Any

    def begin_forward(
        self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], answer: Answer | None
    ) -> Forward: ...

    def bridged(self, current: Forward) -> Bridge | None: ...


def attending(transformer: nn.Module, rows: Sequence[int] | None) -> AbstractContextManager[object]:
    """While these rows of a batch run alone: padded text is known row by row."""
    patch = at_work(transformer, ProcessorPatch)
    return nullcontext() if patch is None or rows is None else patch.on(rows)


def rows_only(spec: ModelSpec, named: Mapping[str, Any], rows: Sequence[int], size: int) -> dict[str, Any]:
    """A forward's arguments, by name, for these rows of a batch of ``size``."""
    return {n: x if n in spec.shared else of_rows(x, rows, size) for n, x in named.items()}


class BothHalves:
    """The forward of such a call while it is under way. On a step that spares the unconditional half, the model runs on
    the rows of the other alone.

    Where nothing else is cached, a computed step is the one call that it was. Beside another method each half is a call
    of its own, with a memory of its own, as of a pipeline that makes two.
    """

    bridge: Bridge | None = None
    spared = False

    def __init__(
        self, session: Begins, spec: ModelSpec, transformer: nn.Module, step: Step, size: int, alone: bool
    ) -> None:
        self._session, self._spec, self._transformer, self.step, self._size = session, spec, transformer, step, size
        self._alone = alone  # no other rule acts
        half = size // 2
        first, last = list(range(half)), list(range(half, size))
        self._cond, self._uncond = (first, last) if spec.conditional == "first" else (last, first)
        name, sharp, ordinal = step.branch.partition("#")
        if name != BATCHED and name != "0":
            sharp, ordinal = "#", name
        self._names = f"cond{sharp}{ordinal}", f"uncond{sharp}{ordinal}"
        self._ended: list[tuple[Forward, Any]] = []
        self._entries: Callable[[int], list[Entry]] = lambda run: []
        self.held: list[CacheState] = []

    def ended(self, output: Any) -> list[tuple[Forward, Any]]:
        """The forwards that it was made as, and what they returned."""
        return self._ended

    def entries(self, run: int) -> list[Entry]:
        return self._entries(run)

    def guided(
        self,
        place: ModuleSite,
        inner: Inner,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """What the call returns, all rows."""
        waiting = Answer(self.step.index, [], Structure(None))  # for the conditional half
        cond, given_c = self._begin(self._names[0], self._cond, args, kwargs, None)
        uncond, given_u = self._begin(self._names[1], self._uncond, args, kwargs, waiting)
        self.held = [*cond.held, *uncond.held]
        if self._alone and not uncond.spared:
            return self._as_one(place, inner, original, args, kwargs, cond, uncond)
        made = self._run(cond, self._cond, lambda: inner(cond, original, *given_c))
        uncond.answer = Answer.of(self.step.index, made)
        uncond.started = time.perf_counter()
        other = self._run(
            uncond, self._uncond, lambda: uncond.answered_by(place, lambda: inner(uncond, original, *given_u))
        )
        self._ended = [(cond, made), (uncond, other)]
        self._entries = lambda run: [*cond.entries(run), *uncond.entries(run)]
        return of_samples([made, other], [*self._cond, *self._uncond])

    def _as_one(
        self,
        place: ModuleSite,
        inner: Inner,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        cond: Forward,
        uncond: Forward,
    ) -> Any:
        whole = self._session.begin_forward(self.step, args, kwargs, None)
        out = self._run(whole, None, lambda: inner(whole, original, args, kwargs))
        made, other = (of_rows(out, rows, self._size) for rows in (self._cond, self._uncond))
        uncond.answer = Answer.of(self.step.index, made)
        uncond.answered_by(place, lambda: other)
        self._ended = [(whole, out)]

        def entries(run: int) -> list[Entry]:
            (entry,) = whole.entries(run)
            entry = entry._replace(seconds=entry.seconds / 2)
            return [entry._replace(step=cond.step), entry._replace(step=uncond.step, guidance=Action.COMPUTE)]

        self._entries = entries
        return out

    def _begin(
        self, branch: str, rows: Sequence[int], args: tuple[Any, ...], kwargs: Mapping[str, Any], answer: Answer | None
    ) -> tuple[Forward, tuple[tuple[Any, ...], dict[str, Any]]]:
        """The forward of one half, and the arguments of its call."""
        names = parameters(self._transformer)[: len(args)]
        given = tuple(rows_only(self._spec, dict(zip(names, args, strict=True)), rows, self._size).values())
        named = rows_only(self._spec, kwargs, rows, self._size)
        step = self.step._replace(branch=branch)
        return self._session.begin_forward(step, given, named, answer), (given, named)

    def _run(self, forward: Forward, rows: Sequence[int] | None, call: Callable[[], Any]) -> Any:
        """``call()``, with ``forward`` as the one under way; after an error it stays so."""
        self._session.current = forward
        forward.bridge = self._session.bridged(forward)
        with attending(self._transformer, rows):
            out = call()
        if forward.bridge is not None:
            forward.bridge.undo()
            forward.bridge = None
        self._session.current = self
        return out
