"""A forward whose samples decide each for itself: of the batch are computed those that need it, the others forecast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from c4d.core.caching.rules import BlocksRule, CacheMethod
from c4d.core.integration.attach import ModuleSite
from c4d.core.integration.blocks import BlockProxy, bind, streams
from c4d.core.integration.hooks import parameters
from c4d.core.runtime.context import ForwardContext
from c4d.core.runtime.forward import COMPUTE, REUSE, Forward
from c4d.core.runtime.guidance import Answer
from c4d.core.runtime.halves import attending, rows_only
from c4d.core.runtime.outputs import of_rows, of_samples
from c4d.core.runtime.report import Entry
from c4d.core.runtime.state import CacheState, Runtime
from c4d.core.spec import STREAM, ModelSpec, Stack
from c4d.core.types import BLOCKS, RelativeL1, Signal, Step


class Sample(Forward):
    """One sample's share of a forward: its own memory and decision. It decides when all are measured."""

    def arrive(self) -> None:
        self.look()


class SampledForward(Forward):
    """One forward of a batch, ``branches`` being what each of its samples remembers.

    Of N samples in N k rows (guidance may run k branches of each in one batch) the i-th has the rows i, N + i, ...
    A decision takes one read for all samples. With ``worst`` they decide alike: by the one that changed most.
    """

    def __init__(
        self,
        spec: ModelSpec,
        method: CacheMethod,
        branches: Sequence[CacheState],
        size: int,
        step: Step,
        tools: Runtime,
        call: ForwardContext,
        answer: Answer | None = None,
    ) -> None:
        self.spec, self.size = spec, size
        self.parts = [list(range(i, size, len(branches))) for i in range(len(branches))]  # the rows of each sample
        self.rows: list[int] | None = None  # of the batch, those that the blocks run on; None: all
        self.resumed = False  # whether blocks run that always do, behind the others
        self.threaded, self.handed = True, dict[str, Tensor]()  # what the last block of each stack returned
        self.samples = [
            Sample(spec, method, branch, step._replace(branch=f"{step.branch}#{i}"), tools, self._call(call, i))
            for i, branch in enumerate(branches)
        ]
        super().__init__(spec, method, branches[0], step, tools, call, answer)

    def _call(self, call: ForwardContext, i: int) -> ForwardContext:
        """The context of one sample's share."""

        def inputs() -> Mapping[str, Any]:
            return self._rows(call.inputs(), self.parts[i])

        return replace(call, inputs=inputs)

    def _part(self, value: Any, i: int) -> Any:
        """Of something with all rows what is of sample ``i``."""
        return of_rows(value, self.parts[i], self.size)

    def _whole(self, parts: Sequence[Any]) -> Any:
        """Something with all rows, from what is of each sample."""
        return of_samples(parts, [row for rows in self.parts for row in rows])

    def _rows(self, named: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """The forward's arguments for these rows."""
        return rows_only(self.spec, named, rows, self.size)

    @property
    def held(self) -> list[CacheState]:
        return [sample.branch for sample in self.samples]

    def entries(self, run: int) -> list[Entry]:
        found = []
        for sample in self.samples:
            sample.restarted, sample.noise, sample.guidance = self.restarted, self.noise, self.guidance
            entry = sample.entry(run)
            found.append(entry._replace(seconds=entry.seconds / len(self.samples)))
        return found

    @property
    def computing(self) -> list[int]:
        """The rows of the samples that are computed, in their order."""
        pairs = zip(self.parts, self.samples, strict=True)
        return sorted(row for rows, sample in pairs if sample.action is COMPUTE for row in rows)

    # -- deciding

    def look(self) -> None:
        self.readings = {signal: None for sample in self.samples for signal in sample.readings}  # type: ignore[misc]

    def read_signal(self, signal: Signal, value: Tensor) -> None:
        for i, sample in enumerate(self.samples):
            sample.readings[signal] = self._part(value.detach(), i)
        super().read_signal(signal, value)

    def decide(self, now: Mapping[Signal, Any]) -> None:
        """``now``: the signals of the whole batch; what a sample has read itself it knows."""
        each: list[dict[Signal, Tensor]] = []
        pairs: dict[tuple[int, Signal], tuple[Tensor, Tensor]] = {}
        wholes: dict[tuple[int, Signal], int] = {}
        for i, sample in enumerate(self.samples):
            sample.moved = None if self.moved is None else self._part(self.moved, i)
            mine = {p: sample.readings[p] if p in sample.readings else self._part(x, i) for p, x in now.items()}
            mine, compared, counts = sample.pairs(mine)
            each.append(mine)
            pairs.update({(i, p): pair for p, pair in compared.items()})
            wholes.update({(i, p): n for p, n in counts.items()})
        seen = self.tools.meter.read(pairs, wholes)
        found = [{p: x for (k, p), x in seen.items() if k == i} for i in range(len(self.samples))]
        if self.method.batch == "worst":
            found = [_most(found)] * len(self.samples)
        for sample, mine, changes in zip(self.samples, each, found, strict=True):
            sample.settle(mine, changes)
        computing = self.computing
        self.actions[0] = COMPUTE if computing else REUSE
        if computing and len(computing) < self.size and isinstance(self.whole, BlocksRule) and self._apart():
            self.rows = computing

    def _apart(self) -> bool:
        """Whether blocks can run on some of the samples: nothing that has the whole batch joins them in between."""
        plan, given = self.spec.sharding, self.call.inputs()
        joining = plan.arguments.get("", {}) if plan else {}
        joined = any(given.get(name) is not None for name in joining)
        return self.branch.threaded and not joined and not self.spec.whole_batch(self.call.transformer)

    # -- the loops over blocks

    def _count(self) -> None:
        for sample in self.samples:
            sample.blocks += self.resumed or sample.action is not REUSE

    def _counted(self, stack: Stack, blocks: Sequence[nn.Module]) -> Iterator[Any]:
        for block in blocks:
            yield BlockProxy(block, partial(self._run_block, stack))

    def _note(self, stack: Stack, named: Mapping[str, Any]) -> None:
        super()._note(stack, named)
        if named[STREAM].shape[0] != self.size:
            raise RuntimeError(
                f"{self.method.name}: what comes to the blocks of {self.spec.transformer}, "
                f"{list(named[STREAM].shape)}, has no row for each of {self.size} in the batch: use batch=mean, or "
                "the method @output"
            )
        for i, sample in enumerate(self.samples):
            sample._note(stack, {name: self._part(x, i) for name, x in named.items()})

    def _run_block(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """On the rows that are computed; streams may have come without the others already."""
        self._count()
        if (rows := self.rows) is None:
            return self._threaded(stack, bind(stack, args, kwargs)[STREAM], block(*args, **kwargs))

        def mine(name: str, x: Any) -> Any:
            gathered = name in stack.returns and isinstance(x, Tensor) and x.shape[0] == len(rows)
            return x if gathered else of_rows(x, rows, self.size)

        places = [*stack.takes, *[""] * len(args)]
        args = tuple(mine(name, x) for name, x in zip(places, args, strict=False))
        kwargs = {name: mine(name, x) for name, x in kwargs.items()}
        self._check_rows(bind(stack, args, kwargs)[STREAM])
        with attending(self.call.transformer, rows):
            return block(*args, **kwargs)

    def _threaded(self, stack: Stack, given: Tensor, out: Any) -> Any:
        """Looks whether the loop's body gave this block what the last one of its stack had returned."""
        if not stack.side:
            self.threaded &= self.handed.get(stack.path, given) is given
            self.handed[stack.path] = streams(stack, out)[STREAM]
        return out

    def _handed_on(self, out: Any) -> Any:
        return out if self.rows is None else of_rows(out, self.rows, self.size)

    def _check_rows(self, x: Tensor) -> None:
        if self.rows is not None and x.shape[0] != len(self.rows):
            raise RuntimeError(
                f"{self.spec.transformer}: {len(self.rows)} of {self.size} rows went through the blocks, and "
                f"{list(x.shape)} came of them; its spec has to say whole_batch=, or use batch=worst"
            )

    def _resume_blocks(
        self, stack: Stack, rule: BlocksRule, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        named = bind(stack, args, kwargs)
        names = [name for name in self.base if isinstance(named.get(name), Tensor)]
        parts: list[list[Tensor]] = []
        for i, sample in enumerate(self.samples):
            base = [sample.base[name] for name in names]
            if sample.action is REUSE:
                parts.append(sample.forecast(sample.branch.histories[BLOCKS], rule, base))
            else:
                came = [self._came(named[name], i) for name in names]
                sample.record(BLOCKS, rule, [x - was for x, was in zip(came, base, strict=True)])
                parts.append(came)
            sample.blocks += 1
        named.update(zip(names, map(self._whole, zip(*parts, strict=True)), strict=True))
        self.rows, self.resumed = None, True  # the tail runs on all
        args = tuple(named[name] for name in stack.takes[: len(args)])
        return block(*args, **{name: named[name] for name in kwargs})

    def _came(self, x: Tensor, i: int) -> Tensor:
        """Of what came out of the blocks, what is of sample ``i``."""
        rows = list(range(self.size)) if self.rows is None else self.rows
        came: Tensor = of_rows(x, [rows.index(row) for row in self.parts[i]], len(rows))
        return came

    # -- the exit, and the output

    def exit(self, x: Tensor, stream: str = STREAM) -> Tensor:
        self.exited = True
        rule = self.whole
        if len(self.computing) == self.size:
            self.branch.threaded = self.threaded
        if not isinstance(rule, BlocksRule) or self.ends[1]:
            return x
        self._check_rows(x)
        came = self.action is REUSE or self.rows is None
        made = [
            sample.exit(self._came(x, i) if came or sample.action is COMPUTE else x[: len(self.parts[i])], stream)
            for i, sample in enumerate(self.samples)
        ]
        if len(self.computing) == self.size:
            return x
        whole: Tensor = self._whole(made)
        return whole

    def at_site(self, place: ModuleSite, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The whole forward: on the samples that are computed."""
        self.answered = True
        rows, out = self.computing, None
        if len(rows) == self.size:
            out = original(*args, **kwargs)
        elif rows:
            given = dict(zip(parameters(self.call.transformer), args, strict=False))
            with attending(self.call.transformer, rows):
                out = original(*self._rows(given, rows).values(), **self._rows(kwargs, rows))
        made = []
        for i, sample in enumerate(self.samples):
            mine = None
            if sample.action is COMPUTE:
                mine = of_rows(out, [rows.index(row) for row in self.parts[i]], len(rows))
            made.append(sample.at_site(place, lambda *_, mine=mine, **__: mine, (), {}))
        return out if len(rows) == self.size else self._whole(made)

    def finish(self, output: Any) -> None:
        for i, sample in enumerate(self.samples):
            sample.finish(self._part(output, i))


def _most(found: Sequence[Mapping[Signal, RelativeL1]]) -> dict[Signal, RelativeL1]:
    """Of each signal the largest change that a sample saw; a number that is not finite is the largest."""

    def size(change: RelativeL1) -> float:
        return change.ratio if math.isfinite(change.ratio) else math.inf

    signals = {signal: None for each in found for signal in each}
    return {signal: max((each[signal] for each in found if signal in each), key=size) for signal in signals}
