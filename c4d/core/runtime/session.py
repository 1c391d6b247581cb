"""A session: one method at work on the transformers of a pipeline, from ``with`` to its end."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from c4d.core.caching.rules import CacheMethod, TokenRule
from c4d.core.integration.attach import Attachment, check_fit
from c4d.core.integration.hooks import Entered, Unsaved, named
from c4d.core.integration.offload import Bridge, tracing
from c4d.core.integration.transformers import transformers_of
from c4d.core.runtime.context import ForwardContext
from c4d.core.runtime.forward import Forward
from c4d.core.runtime.guidance import Answer
from c4d.core.runtime.halves import BothHalves
from c4d.core.runtime.history import HistoryConfig
from c4d.core.runtime.outputs import copies_of, rows_of
from c4d.core.runtime.ownership import ThreadOwnership
from c4d.core.runtime.progress_bar import Begun, Loop, ProgressBar
from c4d.core.runtime.report import Entry, Report, scales, timeline, why
from c4d.core.runtime.samples import SampledForward
from c4d.core.runtime.signals import DecisionSync, SignalReader, SingleProcess
from c4d.core.runtime.state import CacheState, Run, Runtime, signature_of
from c4d.core.runtime.steps import CountingTracker, SchedulerTracker, StepTracker, check_order
from c4d.core.spec import ModelSpec, Stack
from c4d.core.types import Action, Forecaster, LinearForecaster, Primitives, Signal, Step

TRACED_RUNS = 16


class Session(Entered, Unsaved):
    """Attaches ``method`` to ``transformers`` while its ``with`` block lasts; made by :func:`c4d.cached`.

    Nothing is stored outside it: histories, decisions and the trace live here and end here. The trace and the report
    stay readable afterwards.
    """

    def __init__(
        self,
        transformers: Sequence[tuple[nn.Module, ModelSpec]],
        method: CacheMethod,
        *,
        clock: StepTracker,
        backend: Primitives,
        storage: HistoryConfig | None = None,
        ranks: DecisionSync | None = None,
        pipelines: Sequence[tuple[Any, SchedulerTracker]] = (),
        traced_runs: int | None = TRACED_RUNS,
    ) -> None:
        for _, spec in transformers:
            check_fit(method, spec)
        self.method = method
        self.current: Any = None  # a Forward, or BothHalves
        self._timed = any(rule.policy.timed or rule.forecast.timed for rule in method.rules)
        self._by_noise = any(rule.policy.by_noise or _reads_levels(rule.forecast) for rule in method.rules)
        self._turns = ThreadOwnership()
        self._of_call = clock  # of the call under way
        self._clock = clock  # of forwards outside of the loops of ``pipelines``
        self._pipelines = [pair for pair in pipelines if hasattr(type(pair[0]), "progress_bar")]
        self._bars: list[ProgressBar] = []
        self._ranks = ranks or SingleProcess()
        self._tools = Runtime(backend, SignalReader(backend, self._ranks), storage or HistoryConfig())
        self._attachments = [Attachment(self, model, spec, i) for i, (model, spec) in enumerate(transformers)]
        self._run: Run | None = None
        self._trace: deque[Entry] = deque()
        self._traced_runs = traced_runs
        self._runs = 0
        self._peak = self._peak_on_device = 0
        self.chosen: str | None = None  # of "auto": what was chosen, and why
        self.unused = "c4d.cached"

    # -- for users

    def __enter__(self) -> Session:
        self.unused = None
        done: list[Attachment] = []
        try:
            if self.method.guidance is not None and self._ranks.branches_apart:
                raise RuntimeError(
                    f"{self.method.name} makes the output of one branch of guidance of the other's, and cfg=2 gives "
                    "each ranks of its own, which would only wait: use cfg=1, or leave that method out"
                )
            shared = any(isinstance(rule, TokenRule) and rule.select.shared for rule in self.method.rules)
            if shared and self._ranks.branches_apart:
                raise RuntimeError(
                    f"{self.method.name}: the branches of guidance compute the same tokens, which the first one picks, "
                    "and cfg=2 gives each ranks of its own, which would pick others: use cfg=1, or score=random"
                )
            for attachment in self._attachments:
                if attachment.taken():
                    raise RuntimeError(
                        f"{type(attachment.transformer).__name__} is already in a session: leave its with "
                        "block, or call c4d.disable(pipe), first"
                    )
                done.append(attachment)
                attachment.install(self.method)
                attachment.refuse(self.method)
        except BaseException:
            for attachment in done:
                attachment.remove()
            raise
        self._bars = [ProgressBar(self, *pair) for pair in self._pipelines]
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._runs and exc[0] is None:
            names = " and ".join(type(attachment.transformer).__name__ for attachment in self._attachments)
            warnings.warn(
                f"{self.method.name} saw no forward of {names}: it was never called inside the with block, and nothing "
                "was cached (another module may have been put in its place)",
                RuntimeWarning,
                stacklevel=2,
            )
        self._abandon()
        self._close_run()
        for bar in self._bars:
            bar.remove()
        for attachment in self._attachments:
            attachment.remove()

    def begin(self, timesteps: Sequence[Any] | Tensor, sigmas: Sequence[float] | None = None) -> Begun:
        """Opens a run over ``timesteps`` for a denoising loop of one's own; call it before every generation.

        ``with session.begin(timesteps): …`` around the loop frees what it holds with its end, however it ends.

        ``sigmas``: the noise level of each, for methods that need it (forecasts over sigma, SeaCache). The step index
        of a forward is then the number of earlier forwards of its branch. Name the calls of one step with
        ``transformer.cache_context(name)`` if there are several.
        """
        if not all(attachment.attached for attachment in self._attachments):
            raise RuntimeError("this session is not at work: call begin inside its with block")
        check_order(timesteps)
        self._clock = CountingTracker(timesteps, "call session.begin(timesteps)", sigmas)
        return Begun(self, self._clock)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Forwards of this thread that are no steps of any run: computed as they are, neither stored nor counted.

        Such as those that write keys and values of finished frames, which nothing may approximate.
        """
        before, self._turns.own.aside = self._turns.own.aside, True
        try:
            yield
        finally:
            self._turns.own.aside = before

    def reset(self) -> None:
        """Frees what an unfinished run holds, as after a request that was given up. The next forward opens a new run.

        Raises RuntimeError if another thread is inside a forward of this session.
        """
        if self.current is not None and not self._turns.mine:
            raise RuntimeError("another thread is inside a forward of this session; reset it after that")
        self._abandon()
        self._close_run()

    @property
    def trace(self) -> tuple[Entry, ...]:
        """The forwards of the last ``traced_runs`` runs, oldest first."""
        return tuple(self._trace)

    @property
    def runs(self) -> int:
        """How many there were so far, the one under way too."""
        return self._runs

    @property
    def alone(self) -> bool:
        """True if it asks no other rank before it decides."""
        return isinstance(self._ranks, SingleProcess)

    def bytes(self, *, parked: bool = True) -> int:
        """Bytes held right now by histories and signals; without ``parked`` those on the device alone, under
        ``history_on="host"``.

        0 between the runs of a pipeline: they are freed when its loop ends or is stopped. Those of a hand-written loop
        are freed with its last step. If that loop stops earlier, or a branch or transformer leaves it earlier, they
        are freed by the end of ``with session.begin(timesteps)``, by :meth:`reset`, with the next run or the session.
        """
        if self._run is None:
            return 0
        return self._run.bytes(parked) + sum(basis.nbytes for basis in self._tools.bases.values())

    def report(self) -> Report:
        """The last run in numbers."""
        self._tools.overflowed(wait=True)
        entries = [e for e in self._trace if e.run == self._runs - 1]
        computed = [e for e in entries if e.computed]
        reused = [e for e in entries if not e.computed]
        blocks = [sum(len(a.transformer.get_submodule(s.path)) for s in a.spec.stacks) for a in self._attachments]  # type: ignore[arg-type, misc]
        return Report(
            method=self.method.name,
            transformers=tuple(a.spec.transformer for a in self._attachments),
            backend=getattr(self._tools.backend, "name", type(self._tools.backend).__name__),
            runs=self._runs,
            timelines=timeline(entries),
            computed=len(computed),
            reused=len(reused),
            blocks_entered=sum(e.blocks for e in entries),
            blocks_total=sum(blocks[e.step.expert] for e in entries),
            modules_reused=sum(e.modules_reused for e in entries),
            modules_total=sum(e.modules for e in entries),
            tokens_computed=sum(e.tokens_computed for e in entries),
            tokens_total=sum(e.tokens for e in entries),
            peak_bytes=max(self._peak, self.bytes()),
            device_bytes=max(self._peak_on_device, self.bytes(parked=False)),
            host_reads=self._tools.meter.host_reads,
            nonfinite=self._tools.nonfinite,
            seconds={"computed": sum(e.seconds for e in computed), "reused": sum(e.seconds for e in reused)},
            why=why(self.method.rules, entries, {kind for a in self._attachments for kind in a.spec.kinds()}),
            chosen=self.chosen,
            rules=scales(self.method.rules),
            forwards=tuple(entry.to_dict() for entry in entries),
        )

    @property
    def name(self) -> str | None:
        """The branch that this thread's next forward belongs to, as the pipeline's ``cache_context`` gives it."""
        return self._turns.own.name

    @name.setter
    def name(self, value: str | None) -> None:
        self._turns.own.name = value

    # -- called by what is attached to the model

    def enter(self, expert: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Pre-forward hook: finds run, step and branch, and decides at once unless a signal has to be measured."""
        if self._turns.own.aside:
            return
        attachment = self._attachments[expert]
        attachment.refuse(self.method)
        attachment.refuse_recomputed(self.method)
        loop = self._turns.own.loops[-1] if self._turns.own.loops else None
        clock: StepTracker = self._clock if loop is None else loop.clock
        theirs = self._run is not None and self._run.loop is not None and not self._turns.mine
        self._turns.take(self.current is not None, self._run is not None, lambda: not theirs and clock.fresh())
        self._abandon()
        given = named(attachment.transformer, args, kwargs) if args else kwargs
        timestep = given.get(attachment.spec.timestep)
        new_run, step = clock.tick(self.name, timestep, expert)
        if self._timed:
            step = step._replace(timestep=clock.timestep())
        if self._by_noise:
            step = step._replace(levels=clock.levels(step.total))
        if new_run or self._run is None:
            self._open_run(loop)
        assert self._run is not None
        if self.name is None and isinstance(clock, SchedulerTracker) and clock.tells_steps:
            step = step._replace(branch=self._run.unnamed.place(step.index, attachment.conditioning(args, kwargs)))
        self._ranks.compare(attachment.transformer, self.method.name, step, args, kwargs)
        if self._ranks.runs_elsewhere(attachment.transformer):
            return
        attachment.wake()
        self._of_call = clock
        if self._both(attachment, step, given.get(attachment.spec.denoised[0])):
            size = rows_of(given[attachment.spec.denoised[0]])
            parts = (attachment.spec, attachment.transformer, step, size, not self.method.inner)
            self.current = BothHalves(self, *parts)
            return
        answer = self._run.answers.take(step, self.method.name) if self.method.guidance is not None else None
        self.current = self.begin_forward(step, args, kwargs, answer)
        self.current.bridge = self.bridged(self.current)

    def begin_forward(
        self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], answer: Answer | None
    ) -> Forward:
        """A forward with the memory of its branch, for the call under way or a part of its rows."""
        assert self._run is not None
        attachment, clock, rules = self._attachments[step.expert], self._of_call, self.method.rules
        given = named(attachment.transformer, args, kwargs) if args else kwargs
        latents = given.get(attachment.spec.denoised[0])
        apart = self.method.apart(attachment.spec.batch_first)
        branches = self._memories(step, rows_of(latents) if apart else 1, latents)
        # But for the timestep, which may hold one value in one step and two in the next (MiniMax-H3).
        signature = signature_of([given[name] for name in sorted(given) if name != attachment.spec.timestep])
        restarted = branches[0].signature is not None and branches[0].signature != signature
        traced = tracing(attachment.transformer)
        for branch in branches:
            if branch.signature != signature or traced:
                branch.reset(rules)
            branch.signature, branch.last = signature, step.index
        if traced:
            attachment.refresh(self.method)
        inputs = partial(named, attachment.transformer, args, kwargs)
        where = attachment.spec, attachment.transformer
        call = ForwardContext(*where, inputs, clock.noise, self._ranks, self._run.picked)
        parts = (step, self._tools, call, answer)
        current = (
            Forward(attachment.spec, self.method, branches[0], *parts)
            if len(branches) == 1
            else SampledForward(attachment.spec, self.method, branches, rows_of(latents), *parts)
        )
        current.restarted, current.noise = restarted, clock.noise_on_host()
        return current

    def bridged(self, current: Forward) -> Bridge | None:
        """The bridge over offloaded blocks that a forward skips, None where there are none."""
        attachment = self._attachments[current.step.expert]
        if attachment.offloaded and (current.spared or (current.whole and current.action is Action.REUSE)):
            return Bridge(attachment.offloaded, attachment.blocks)
        return None

    def begin_loop(self, loop: Loop) -> None:
        """A pipeline's loop begins: this thread's forwards are its own until it ends."""
        self._refuse_exchanged(loop.pipeline)
        loop.clock.begin()
        self._turns.own.loops.append(loop)

    def end_loop(self, loop: Loop) -> None:
        """It has ended, or was stopped: nothing of its run stays, and no forward outside of it goes on with it."""
        loop.clock.end()
        if loop in self._turns.own.loops:
            self._turns.own.loops.remove(loop)
        if self._run is not None and self._run.loop is loop:
            self._abandon()
            self._close_run()

    def end_begun(self, clock: StepTracker) -> None:
        """The block of ``with session.begin(timesteps)`` has ended, or was stopped; a later run is none of its."""
        if self._clock is clock:
            self.reset()

    def plan(self, stack: Stack, blocks: list[nn.Module]) -> Any:
        """What a loop over ``stack`` yields: outside a forward simply its blocks."""
        return iter(blocks) if self.current is None else self.current.iterate(stack, blocks)

    def read_signal(self, signal: Signal, read: Callable[[Any], Tensor], args: Any, output: Any) -> None:
        if self.current is not None:
            self.current.read_signal(signal, read(output))

    def exit(
        self, stream: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A stream of the blocks enters the module after the loops."""
        if self.current is None:
            return None
        if args:
            return (self.current.exit(args[0], stream), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: self.current.exit(kwargs[first], stream)}

    def leave(self, args: tuple[Any, ...], output: Any) -> None:
        """After the forward, also after one that raised (``output`` is None then)."""
        current = self.current
        if current is None or not self._turns.mine:
            return
        if output is None:  # it raised, and what was stored for the steps after it is of no use
            self._abandon()
            if self._run is not None:
                self._run.forget(self.method.rules)
            return
        self._end_pass(current)
        ended = current.ended(output)
        for forward, _ in ended:
            forward.check()
        self._refuse_overflow(current.step)
        for forward, made in ended:
            forward.finish(made)
        assert self._run is not None
        if self.method.guidance is not None:
            self._run.answers.keep(current.step, output)
        self._trace.extend(current.entries(self._run.number))
        if current.step.index >= current.step.total - 1:
            self._held()
            for branch in current.held:
                self._run.release(branch, self.method.rules)  # what follows (the VAE) gets the memory
            if not self._run.bytes():
                self._tools.bases.clear()

    # -- inside

    def _refuse_overflow(self, step: Step) -> None:
        if self._tools.overflowed(wait=step.index >= step.total - 1):
            self._close_run()
            raise RuntimeError(
                f"a feature does not fit into history_dtype={self._tools.storage.dtype}, whose numbers end at "
                f"{self._tools.storage.most:g}: use history_dtype=torch.bfloat16, or none"
            )

    def _both(self, attachment: Attachment, step: Step, latents: Any) -> bool:
        """Whether a rule of guidance acts on a call that has both branches in one batch."""
        if self.method.guidance is None or self._run is None:
            return False
        conditional, meter = attachment.spec.conditional, self._tools.meter
        both = self._run.answers.both(step, latents, conditional, self.method.name, meter)
        if both and not self.alone:
            raise RuntimeError(
                f"{self.method.name} runs one half of a batch that holds both branches of guidance, and several ranks "
                "share all of it: leave that method out, or run on one rank"
            )
        return both

    def _memories(self, step: Step, rows: int, latents: Any) -> list[CacheState]:
        """What the samples in so many ``rows`` remember, each for itself; one thing for all of a single row.

        Rows with equal latents are branches of guidance of one sample. Samples that begin with the same noise are told
        apart in the second step, and begin anew then.
        """
        assert self._run is not None
        branches = self._run.branches
        if rows == 1:
            return [branches[step.branch, step.expert]]
        place = step.branch, step.expert, rows
        known = self._run.copies.get(place)
        if known is None or (known[1] > 1 and step.index <= known[0] + 1):
            copies = copies_of(latents)
            self._tools.meter.host_reads += 1
            self._run.copies[place] = known = (known[0] if known else step.index, copies)
        if known[1] == rows:
            return [branches[step.branch, step.expert]]
        return [branches[f"{step.branch}#{i}", step.expert] for i in range(rows // known[1])]

    def _refuse_exchanged(self, pipeline: Any) -> None:
        ours = [attachment.transformer for attachment in self._attachments]
        for name, module in transformers_of(pipeline).items():
            if not any(module is each for each in ours):
                raise RuntimeError(
                    f"{type(pipeline).__name__}.{name} is another {type(module).__name__} than when this session began "
                    "and would run without a cache: end the session and open one for the pipeline as it is now"
                )

    def _abandon(self) -> None:
        """Ends a forward that raised; one ended by a KeyboardInterrupt is found here later, for torch runs no hooks."""
        if self.current is not None:
            self._end_pass(self.current)

    def _end_pass(self, current: Forward | BothHalves) -> None:
        self.current = None
        self._attachments[current.step.expert].take_hold()
        if current.bridge is not None:
            current.bridge.undo()

    def _open_run(self, loop: Loop | None) -> None:
        self._close_run()
        self._run = Run(self._runs, loop)
        self._runs += 1
        while (
            self._traced_runs is not None and self._trace and self._trace[0].run <= self._run.number - self._traced_runs
        ):
            self._trace.popleft()
        for attachment in self._attachments:
            attachment.refresh(self.method)

    def _close_run(self) -> None:
        self._held()
        self._run = None
        self._tools.bases.clear()

    def _held(self) -> None:
        self._peak = max(self._peak, self.bytes())
        self._peak_on_device = max(self._peak_on_device, self.bytes(parked=False))


def _reads_levels(forecaster: Forecaster) -> bool:
    return isinstance(forecaster, LinearForecaster) and forecaster.by_noise
