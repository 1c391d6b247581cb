"""One forward of a run: it decides once, then tells loops, exit and modules what to do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.core.caching.rules import BlocksRule, CacheMethod, OutputRule, Rule, TokenRule
from c4d.core.integration.attach import ModuleSite
from c4d.core.integration.blocks import BlockProxy, bind, streams, unbind
from c4d.core.integration.offload import Bridge, onloaded
from c4d.core.runtime.context import ForwardContext
from c4d.core.runtime.guidance import Answer
from c4d.core.runtime.history import History
from c4d.core.runtime.outputs import Structure, joined
from c4d.core.runtime.read_ahead import ReadAhead
from c4d.core.runtime.report import Entry
from c4d.core.runtime.spectrum import evolved, leading, like_output, slow_waves
from c4d.core.runtime.state import CacheState, FeatureOps, Runtime
from c4d.core.runtime.token_sites import TokenCall, TokenSites
from c4d.core.spec import STREAM, AtEntry, ModelSpec, Stack
from c4d.core.types import (
    BLOCKS,
    GUIDANCE,
    OUTPUT,
    Action,
    DraftPolicy,
    FeatureForecaster,
    LinearForecaster,
    RelativeL1,
    Signal,
    Step,
)

COMPUTE, PARTIAL, REUSE = Action.COMPUTE, Action.PARTIAL, Action.REUSE
NOWHERE = ("", 0, 0)
PROBED = f"{BLOCKS}:probe"  # the key of the first blocks' residuals at computed steps
TINY = 1e-10  # beside an element that it divides by


class Forward:
    """One forward of one transformer: decides once, then tells loops, exit and sites what to do."""

    seen: Mapping[Signal, RelativeL1] = MappingProxyType({})
    base: Mapping[str, Tensor] = MappingProxyType({})  # the streams that the stack's features are relative to
    base_of: Stack | None = None  # whose they are
    exited = answered = restarted = False
    looked_at = NOWHERE  # a stack that a loop has begun on without calling a block yet; the next two before it
    blocks = passed = 0  # entered; of the chain, those that the loops were given or passed over
    modules = modules_reused = 0
    bridge: Bridge | None = None
    noise: float | None = None  # for the trace alone, where it costs nothing to know
    guidance: Action | None = None  # what the rule of guidance says, of a call without condition
    draft: DraftPolicy[Any] | None = None  # whose draft this is, if it is to be verified
    drafted: tuple[Stack, list[Tensor]] | None = None  # what the last block adds, forecast and computed
    verifying = False  # the last block of a draft is being computed
    moved: Tensor | None = None  # what the first blocks added, where they are measured
    advanced: float | None = None  # how far that is, if somebody asked

    def __init__(
        self,
        spec: ModelSpec,
        method: CacheMethod,
        branch: CacheState,
        step: Step,
        tools: Runtime,
        call: ForwardContext,
        answer: Answer | None = None,
    ) -> None:
        self.spec, self.method, self.branch, self.step, self.tools, self.call = spec, method, branch, step, tools, call
        self.rules, self.whole = method.inner, method.whole
        self.ends = (0, 0)  # how many first and last blocks run whatever is decided
        if isinstance(self.whole, BlocksRule):
            self.ends = self.whole.ends_at(step)
            if branch.ends not in (None, self.ends):  # what is stored is of other blocks
                branch.histories.clear()
            branch.ends = self.ends
        self.tokens = TokenSites(branch, step, call)  # the modules that can compute some of theirs
        self.answer = answer  # of the conditional call, for one without condition
        self.actions: list[Action | None] = [None] * len(self.rules)
        self.weighed: list[float | None] = [None] * len(method.rules)
        self.started = time.perf_counter()
        self.readings: dict[Signal, Tensor] = {}
        self.ahead = ReadAhead()
        if answer is not None and method.guidance is not None:
            self.guidance = self._act(len(self.rules), method.guidance, False)
        if not self.spared:
            self.arrive()

    @property
    def action(self) -> Action | None:
        """What the whole forward does; None while undecided. A method of module rules computes the forward."""
        return self.actions[0] if self.whole else COMPUTE

    @property
    def spared(self) -> bool:
        """Whether it is a call without condition of which nothing runs."""
        return self.guidance is REUSE

    def check(self) -> None:
        """Raises RuntimeError unless the forward that just ended went the way that its spec says."""
        skipped = self.spared or self.action is REUSE
        at_output = self.spared or isinstance(self.whole, OutputRule)
        if skipped and at_output and not self.answered:
            raise RuntimeError(f"{self.spec.transformer}: its forward was exchanged during the call; run it again")
        if self.spared or (not self.spec.stacks and (at_output or self.whole is None)):
            return
        if self.action is None or (not skipped and not (self.exited and self.passed)):
            raise RuntimeError(
                f"{self.spec.transformer}: the forward did not pass through {self.spec.stacks[0].path!r} and "
                f"{self.spec.exit!r}; its spec does not describe this model"
            )
        if skipped and not self.exited and not at_output:
            raise RuntimeError(
                f"{self.spec.transformer}: a reused forward did not reach {self.spec.exit!r}; its spec is wrong"
            )

    @property
    def held(self) -> list[CacheState]:
        """What it remembers for later steps."""
        return [self.branch]

    def ended(self, output: Any) -> list[tuple[Forward, Any]]:
        """The forwards that the call was made as, and what they returned."""
        return [(self, output)]

    def entries(self, run: int) -> list[Entry]:
        """What it did, for the trace: one of each sample that decided for itself."""
        return [self.entry(run)]

    def entry(self, run: int) -> Entry:
        """What it did, for the trace."""
        seconds = time.perf_counter() - self.started
        actions = tuple(filter(None, self.actions))
        done = self.blocks, self.modules, self.modules_reused, seconds
        more = self.restarted, tuple(self.weighed), self.noise, self.guidance
        return Entry(run, self.step, actions, *done, self.seen, *more, self.tokens.total, self.tokens.computed)

    # -- deciding

    def arrive(self) -> None:
        """Before the forward: what can be known of its arguments alone is; that may decide the forward."""
        if all(signal.left for signal in self.method.signals):
            self.decide({})
            return
        self.look()
        if all(signal.outside for signal in self.method.signals):
            self.decide(self.readings)

    def look(self) -> None:
        """Reads the signals that are known of the arguments alone."""
        signals = self.method.signals
        if not any(signal.outside for signal in signals):
            return
        latents = self.call.latents()
        if wanted := {Signal.INPUT, Signal.INPUT_SINCE} & signals:  # a loop may go on to change its latents in place
            self.readings.update(dict.fromkeys(wanted, joined(latents).clone()))
        if Signal.SPECTRUM in signals:
            parts = [
                evolved(self._channels_first(x), self.call.grid(self.branch)[0], self.call.noise()) for x in latents
            ]
            self.readings[Signal.SPECTRUM] = joined(parts)

    def read_signal(self, signal: Signal, value: Tensor) -> None:
        """A signal that became known before the blocks; when all are in, the forward is decided."""
        self.readings[signal] = value.detach()
        if self.action is None and {p for p in self.method.signals if not p.left} <= self.readings.keys():
            self.decide(self.readings)

    def _channels_first(self, x: Tensor) -> Tensor:
        return x if x.ndim <= 3 else x.movedim(self.spec.channels, 1)

    def _like(self, shapes: Sequence[Sequence[int]], cut: Callable[[Tensor, Sequence[int]], Tensor]) -> list[Tensor]:
        """The latents, each cut to the shape of the output that it is beside."""
        latents = self.call.latents()
        if len(latents) != len(shapes):
            raise TypeError(
                f"{self.spec.transformer} returned {len(shapes)} tensors for {len(latents)} that are denoised; "
                f"{self.method.name} needs one for each"
            )
        return [cut(x, shape) for x, shape in zip(latents, shapes, strict=True)]

    def decide(self, now: Mapping[Signal, Tensor]) -> None:
        now, pairs, wholes = self.pairs(now)
        self.settle(now, self.tools.meter.read(pairs, wholes))

    def pairs(
        self, now: Mapping[Signal, Tensor]
    ) -> tuple[dict[Signal, Tensor], dict[Signal, tuple[Tensor, Tensor]], dict[Signal, int]]:
        """The signals without padding, what each is compared with, and how many numbers of it all ranks have."""
        parts = {signal: self._unpadded(value, not signal.outside) for signal, value in now.items()}
        now, wholes = {p: x for p, (x, _) in parts.items()}, {p: n for p, (_, n) in parts.items()}
        before = self.branch.before
        pairs = {p: (x, before[p]) for p, x in now.items() if p in before and before[p].shape == x.shape}
        for signal, (pair, whole) in self.branch.left.items():
            pairs[signal], wholes[signal] = pair, whole
        self.branch.left = {}
        return dict(now), pairs, wholes

    def settle(self, now: Mapping[Signal, Tensor], seen: Mapping[Signal, RelativeL1]) -> None:
        """Decides by what was ``seen`` to have changed."""
        broken = self._see(seen)
        for i, rule in enumerate(self.rules):
            self.actions[i] = self._act(i, rule, broken > 0)
        if self.whole and self.action is REUSE and {COMPUTE, PARTIAL} & set(self.actions):
            raise RuntimeError(f"{self.method.name} reuses the blocks of a step whose modules it computes")
        for signal, value in now.items():
            if not signal.anchored or COMPUTE in self.actions:
                self.branch.before[signal] = value
        if self.tools.storage.place == "host":
            self.ahead = ReadAhead(self._reused())

    def _reused(self) -> Iterator[History]:
        """The histories that it forecasts from, in the order in which they were first stored: that of the calls."""
        rules = self.rules
        if self.whole is not None and self.action is REUSE:  # what is inside is skipped
            rules = (self.whole,)
        reused = [rule for rule, action in zip(rules, self.actions, strict=False) if action is not COMPUTE]
        kinds = {kind for rule in reused for kind in rule.sites}
        return (history for key, history in self.branch.histories.items() if key.partition(":")[0] in kinds)

    def _act(self, i: int, rule: Rule, broken: bool) -> Action:
        """What the ``i``-th rule does; it begins anew if nothing is stored, or what was measured is ``broken``."""
        ready, states = self._ready(rule), self.branch.states
        state = states[i] if ready and not broken else rule.policy.init()
        if rule.policy.scale is not None:
            self.weighed[i] = rule.policy.weigh(state, self.step, self.seen)
        action, states[i] = rule.policy.decide(state, self.step, self.seen)
        if not ready and action is not COMPUTE:
            raise RuntimeError(f"{type(rule.policy).__name__} reuses from a fresh state; a policy must compute first")
        if action is PARTIAL and not isinstance(rule, TokenRule):
            raise RuntimeError(f"{type(rule.policy).__name__} has partial steps, which {type(rule).__name__} has not")
        if action is REUSE and isinstance(rule.policy, DraftPolicy) and rule.policy.verifies(states[i]):
            self.draft = rule.policy
        return action

    def _see(self, seen: Mapping[Signal, RelativeL1]) -> int:
        """Keeps what was measured; how much of it is not finite."""
        self.seen = seen
        broken = sum(not change.finite for change in seen.values())
        self.tools.nonfinite += broken
        return broken

    def _unpadded(self, x: Tensor, spread: bool = True) -> tuple[Tensor, int]:
        return self.call.ranks.unpadded(self.call.transformer, x, spread)

    def _ready(self, rule: Rule) -> bool:
        """True if something is stored that the rule could reuse, or it needs nothing."""
        held = any(key.partition(":")[0] in rule.sites for key in self.branch.histories)
        return held or rule.forecast.num_features == 0

    # -- the loops over blocks

    def iterate(self, stack: Stack, blocks: list[nn.Module]) -> Iterator[Any]:
        """What a loop over one of the spec's stacks runs in this forward.

        Nothing if it is reused; with a rule that keeps blocks at the end, the others' places are held by fillers, for
        a loop's body may count (and so they are in a stack that says it). Blocks at which something is to be noted or
        put in have a stand-in. A loop that calls none (it looks at their processors) does not count: the next one over
        the same stack begins where it began.
        """
        if stack.interleaved:
            yield from (BlockProxy(block, partial(self._call_between, stack)) for block in blocks)
            return
        path, *counts = self.looked_at
        if path == stack.path:
            self.blocks, self.passed = counts
        self.looked_at = stack.path, self.blocks, self.passed
        for i, block in enumerate(self._planned(stack, blocks)):
            yield block if i else BlockProxy(block, partial(self._call_first, stack))

    def _call_first(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.looked_at = NOWHERE
        args, kwargs = self.call.ranks.begin(self.call.transformer, stack, args, kwargs)
        return block(*args, **kwargs)

    def _call_between(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block that stands between those of the chain: on a reused forward only one of the tail has an effect."""
        if self.action is REUSE and self.passed <= self._resumed():
            return unbind(stack, bind(stack, args, kwargs))
        self.blocks += 1
        return block(*args, **kwargs)

    def _planned(self, stack: Stack, blocks: list[nn.Module]) -> Iterator[Any]:
        rule = self.whole
        first_blocks, last_blocks = self.ends
        held = last_blocks or stack.filled
        if self.action is REUSE and not held and self.passed >= first_blocks:
            return
        if stack.side or not isinstance(rule, BlocksRule):
            yield from self._whole_stack(stack, blocks)
            return
        resumed = self._resumed()
        for block in blocks:
            i = self.passed
            self.passed += 1
            if last_blocks and i == resumed:
                yield BlockProxy(block, partial(self._resume_blocks, stack, rule))
            elif self.action is REUSE and first_blocks <= i < resumed:
                if not held:
                    return
                yield BlockProxy(block, partial(self._pass_over, stack, i == 0))
            elif self.action is None and i == max(0, first_blocks - 1):
                yield BlockProxy(block, partial(self._measure_blocks, stack))
            elif i < resumed and i == first_blocks - 1:
                yield BlockProxy(block, partial(self._leave_first, stack))
            elif i == 0 and (self.action is None or (self.action is COMPUTE and rule.residual)):
                yield BlockProxy(block, partial(self._enter_blocks, stack))
            else:
                yield from self._counted(stack, [block])

    def _whole_stack(self, stack: Stack, blocks: list[nn.Module]) -> Iterator[Any]:
        """All of its blocks; the last one of the chain is verified if the forward is such a draft."""
        self.passed += len(blocks) * (not stack.side)
        last = not stack.side and self.draft is not None and self.passed == self._resumed()
        yield from self._counted(stack, blocks[:-1] if last else blocks)
        if last:
            yield BlockProxy(blocks[-1], partial(self._verify_block, stack))

    def _resumed(self) -> int:
        """The place in the chain from which on a reused forward runs the blocks again."""
        last_blocks = self.whole.last_blocks if isinstance(self.whole, BlocksRule) else 0
        paths = [stack.path for stack in self.spec.chain]
        return sum(len(list(self.call.transformer.get_submodule(path).children())) for path in paths) - last_blocks

    def _counted(self, stack: Stack, blocks: Sequence[nn.Module]) -> Iterator[Any]:
        for block in blocks:
            self.blocks += 1
            yield block

    def _note(self, stack: Stack, named: Mapping[str, Any]) -> None:
        """What is stored is relative to these streams, of all that a block of ``stack`` was given."""
        self.base, self.base_of = {name: named[name] for name in stack.returns if name in named}, stack

    def _run_block(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.blocks += 1
        return block(*args, **kwargs)

    def _enter_blocks(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._note(stack, bind(stack, args, kwargs))
        return self._run_block(stack, block, args, kwargs)

    def _leave_first(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The last of the first blocks that always run, in a forward that is decided."""
        out = self._run_block(stack, block, args, kwargs)
        self._note(stack, streams(stack, out))
        return out

    def _verify_block(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The last block of a draft that is verified: with forecast modules, which go on, and beside it computed."""
        out = block(*args, **kwargs)
        self.verifying = True
        try:
            computed = block(*args, **kwargs)
        finally:
            self.verifying = False
        self.blocks += 2
        given, found = bind(stack, args, kwargs)[STREAM], [streams(stack, each)[STREAM] for each in (out, computed)]
        self.drafted = stack, [(x - given).detach() for x in found]
        return out

    def _pass_over(
        self, stack: Stack, first: bool, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """In place of a block that a reused forward skips: hands on what it gets."""
        named = bind(stack, args, kwargs)
        if first:
            self._note(stack, named)
        return unbind(stack, named)

    def _measure_blocks(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Decides at the first block: before it if its input is enough; for HEAD, after the last block of the head."""
        named = bind(stack, args, kwargs)
        signals, now = self.method.signals, dict(self.readings)
        entry = {p: s for p in signals if isinstance(s := self.spec.signals.get(p), AtEntry)}
        late = {p for p in signals if p.first or p.left}
        if missing := signals - {*now, *entry, *late}:
            names = ", ".join(sorted(p.value for p in missing))
            raise RuntimeError(f"{self.spec.transformer}: {names} did not show up before the blocks; its spec is wrong")
        if entry:
            with onloaded(block):
                mine = self.call.ranks.local_args(self.call.transformer, stack, named)
                now.update({p: s.read(block, mine).detach() for p, s in entry.items()})
        if not any(p.first for p in signals):
            self.decide(now)
            if self.action is REUSE:
                self._note(stack, named)
                return unbind(stack, named)
            return self._enter_blocks(stack, block, args, kwargs)
        if not self.base:  # this is the first block
            self._note(stack, named)
        start, out = self.base[STREAM], self._run_block(stack, block, args, kwargs)
        there = streams(stack, out)
        self.moved = (there[STREAM] - start).detach()
        if not (isinstance(self.whole, BlocksRule) and self.whole.probe):
            self._note(stack, there)
        found = {Signal.FIRST_BLOCKS: self.moved, Signal.PROBE: there[STREAM].detach(), Signal.ENTRY: start.detach()}
        self.decide({**now, **{p: found[p] for p in signals if p.first}})
        return self._handed_on(out)

    def _handed_on(self, out: Any) -> Any:
        """Of what the block returned at which the forward was decided: what the next one gets."""
        return out

    def _resume_blocks(
        self, stack: Stack, rule: BlocksRule, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The first block of the tail: what came to it is recorded, or replaced by its forecast."""
        named = bind(stack, args, kwargs)
        names = [name for name in self.base if isinstance(named.get(name), Tensor)]
        if self.action is REUSE:
            history, base = self.branch.histories[BLOCKS], [self.base[name] for name in names]
            made = self.forecast(history, rule, base)
            named.update(zip(names, made, strict=True))
            args = tuple(named[name] for name in stack.takes[: len(args)])
            kwargs = {name: named[name] for name in kwargs}
        else:
            self.record(BLOCKS, rule, [named[name] - self.base[name] for name in names])
        self.blocks += 1
        return block(*args, **kwargs)

    # -- the exit

    def exit(self, x: Tensor, stream: str = STREAM) -> Tensor:
        """A stream of the blocks on its way out of the loops: recorded, or replaced by its forecast."""
        self.exited = True
        if self.drafted is not None and stream == STREAM:
            self._compare_draft(x.shape[1])
        rule, key = self.whole, BLOCKS if stream == STREAM else f"{BLOCKS}:{stream}"
        if not isinstance(rule, BlocksRule) or self.ends[1]:
            return x
        base = self._base(stream, x) if rule.residual else None
        if self.action is REUSE:
            base = x if base is None and rule.residual else base
            history = self.branch.histories[key]
            return self.forecast(history, rule, None if base is None else [base], stream)[0].to(x.dtype)
        if base is None and rule.residual:
            raise RuntimeError(
                f"{self.spec.transformer}: the exit was reached without entering a block; its spec is wrong"
            )
        if base is not None and base.shape != x.shape:
            if self.branch.unstored:
                raise RuntimeError(
                    f"{self.spec.transformer}: {list(base.shape)} came to the blocks, and {list(x.shape)} leave them; "
                    "its spec is wrong"
                )
            self.branch.unstored = True  # once it may be: a first step may drop the tokens of a given image
            return x
        feature = x if base is None else (x - base).to(base.dtype)
        self.record(key, rule, [feature])
        if stream == STREAM and isinstance(rule.forecast, FeatureForecaster) and rule.forecast.reads_probe:
            assert self.moved is not None  # measured
            self.record(PROBED, rule, [self.moved])
        return x

    def _base(self, stream: str, x: Tensor) -> Tensor | None:
        """What the feature of ``x`` at the exit is relative to, as it lies there; None if no block was entered."""
        if self.base_of is None or stream not in self.base:
            return None
        if stream == STREAM and self.spec.at_exit is not None:
            return self.spec.at_exit(self.call.transformer, self.call.inputs(), self.base)
        return self.base_of.image(self.base[stream], x.shape[1])

    # -- drafts

    def _compare_draft(self, tokens: int) -> None:
        """Leaves what the last block adds to the tokens at the exit, forecast and computed, to be measured."""
        assert self.drafted is not None and self.draft is not None
        stack, found = self.drafted
        made, computed = (self._unpadded(stack.image(x, tokens))[0] for x in found)
        whole = self._unpadded(stack.image(found[0], tokens))[1]
        if self.draft.elementwise:
            size = computed.float().abs() + TINY
            made, computed = made / size, computed / size
        self.branch.left[Signal.DRAFT] = (made, computed), whole

    def settled(self, forward: Callable[[], Any]) -> Any:
        """What a forward returns whose draft is verified in the same step: of one that is rejected, the computed one's,
        for which it runs once more."""
        out = forward()
        if self.draft is None or Signal.DRAFT not in self.branch.left:
            return out
        _, pairs, wholes = self.pairs({})
        broken, states = self._see(self.tools.meter.read(pairs, wholes)), self.branch.states
        for i, rule in enumerate(self.rules):
            if rule.policy is not self.draft:
                continue
            if rule.policy.scale is not None:
                self.weighed[i] = rule.policy.weigh(states[i], self.step, self.seen)
            self.actions[i], states[i] = self.draft.settle(states[i], self.step, self.seen)
            if broken:
                self.actions[i], states[i] = rule.policy.decide(rule.policy.init(), self.step, {})
        if COMPUTE not in self.actions:
            return out
        self.draft = self.drafted = None
        self.ahead.end()
        self.exited, self.passed, self.looked_at = False, 0, NOWHERE
        return forward()

    # -- the whole forward

    def guided(
        self,
        place: ModuleSite,
        inner: Callable[..., Any],
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """What the transformer's forward, ``original`` with ``inner`` around it, returns under a rule of guidance."""
        return self.answered_by(place, lambda: inner(self, original, args, kwargs))

    def answered_by(self, place: ModuleSite, forward: Callable[[], Any]) -> Any:
        """What a forward returns under a rule of guidance: of a call without condition, it is made of the conditional
        one's, or what it differs by is recorded."""
        if self.answer is None:
            return forward()
        rule, given = self.method.rules[place.rule], self.answer
        if not self.spared:
            out = forward()
            if rule.forecast.num_features:
                leaves, _ = Structure.of(out, OUTPUT)
                if [x.shape for x in leaves] != [x.shape for x in given.leaves]:
                    raise RuntimeError(f"{self.spec.transformer} returns other shapes with condition than without")
                self.record(GUIDANCE, rule, [x - y for x, y in zip(leaves, given.leaves, strict=True)])
            return out
        self.answered = True
        if not rule.forecast.num_features:
            return given.structure.filled(given.leaves)
        return given.structure.filled(self.forecast(self.branch.histories[GUIDANCE], rule, given.leaves))

    # -- modules

    def at_site(
        self, place: ModuleSite, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What a cached module returns: its own output, recorded, or the forecast of it."""
        if self.verifying:
            self.modules += 1
            return original(*args, **kwargs)
        rule, reuse = self.rules[place.rule], self.reuses(place)
        residual = isinstance(rule, OutputRule) and rule.residual
        if place.key == OUTPUT:
            self.answered = True
        else:
            self.modules += 1
            self.modules_reused += reuse
        if reuse:
            history = self.branch.histories[place.key]
            base = self._like(history.shapes, leading) if residual else None
            leaves = self.forecast(history, rule, base)
            if place.key == OUTPUT and rule.forecast.num_forecasts:  # as below
                leaves = [x.clone() for x in leaves]
            assert history.structure is not None  # it came with what is stored
            return history.structure.filled(leaves)
        out = original(*args, **kwargs)
        try:
            leaves, structure = Structure.of(out, place.key)
        except TypeError:
            if place.key != OUTPUT or self.branch.unstored:
                raise
            self.branch.unstored = True  # once it may be: a first step may make a KV cache for the others
            return out
        stored, shapes = leaves, [x.shape for x in leaves]
        if residual:
            stored = [x - base for x, base in zip(leaves, self._like(shapes, leading), strict=True)]
        elif place.key == OUTPUT:  # the pipeline may go on to change it in place
            stored = [x.clone() for x in leaves]
        history = self.record(place.key, rule, stored)
        history.structure = structure
        if isinstance(rule.forecast, LinearForecaster) and rule.forecast.reads_latents:
            made = self._corrected(history, rule.forecast, leaves)
            return out if made is None else structure.filled(made)
        return out

    def _corrected(
        self, history: History, forecaster: LinearForecaster, leaves: Sequence[Tensor]
    ) -> list[Tensor] | None:
        """Keeps the latents beside a computed output; what is handed on in its place, None for itself."""
        then, now = history.beside, [x.clone() for x in self._like(history.shapes, like_output)]
        history.keep_beside(now)
        if (weights := self.tools.of_run(forecaster, self.step).handed_on(history.times)) is None:
            return None
        return self.tools.corrected(history, weights, leaves, list(zip(now, then, strict=True)))

    def at_attention(self, place: ModuleSite, x: Tensor, forward: Callable[[], Any]) -> Any:
        """What a self-attention returns of ``x`` [B, S, D], by which the tokens of its block are weighed."""
        rule = self.rules[place.rule]
        if self.actions[place.rule] is not COMPUTE:
            return forward()
        assert isinstance(rule, TokenRule) and rule.select.reads is not None
        with self.tokens.weighing(place, rule.select.reads, x):
            return forward()

    def at_tokens(
        self, place: ModuleSite, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """What a module returns that can compute some of its tokens: all of them computed, some, or none."""
        rule, history, call = (
            self.rules[place.rule],
            self.branch.histories.get(place.key),
            TokenCall(original, args, kwargs),
        )
        assert isinstance(rule, TokenRule)
        self.modules += 1
        if history is None or self.actions[place.rule] is COMPUTE:
            out = self.tokens.all_of(place, rule, call)
            self.record(place.key, rule, [out])
            return out
        made = self.forecast(history, rule)[0]
        new = self.tokens.some_of(place, rule, history, made, call, self.actions[place.rule] is PARTIAL)
        self.modules_reused += new is None
        return made if new is None else new

    def finish(self, output: Any) -> None:
        """After the forward: the output of a computed forward goes to the next that decides by it."""
        self.ahead.end()
        if Signal.OUTPUT in self.method.signals and COMPUTE in self.actions:
            leaves = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
            now, before = joined(leaves).clone(), self.branch.before.get(Signal.OUTPUT)
            self.branch.before[Signal.OUTPUT] = now
            if before is not None and before.shape == now.shape:
                self.branch.left[Signal.OUTPUT] = (before, now), self._unpadded(now, False)[1]

    def reuses(self, place: ModuleSite) -> bool:
        """True if this forward forecasts the module there (and the modules that this bypasses hand out fillers)."""
        action = REUSE if self.actions[place.rule] is PARTIAL and not place.rows else self.actions[place.rule]
        return action is REUSE and place.key in self.branch.histories and not self.verifying

    def forecast(
        self, history: History, rule: Rule, base: Sequence[Tensor] | None = None, stream: str = STREAM
    ) -> list[Tensor]:
        """Every tensor of ``history``, which is of ``stream``, forecast for now, plus its ``base``."""
        self.ahead.reach(history)
        valid = partial(self._unpadded, spread=isinstance(rule, BlocksRule) and stream == STREAM)
        more = self._band, self._slow_waves, self._advance
        field = FeatureOps(self.tools, history, self.call.ranks, self.step, valid, *more)
        latents: list[tuple[Tensor, Tensor]] = []
        if then := history.beside:
            latents = list(zip(self._like(history.shapes, like_output), then, strict=True))
        forecaster = rule.forecast
        if isinstance(forecaster, LinearForecaster):
            forecaster = self.tools.of_run(forecaster, self.step)
        return self.tools.forecast(history, forecaster, self.time(rule), field, base, latents)

    def _advance(self) -> float:
        """:meth:`c4d.core.types.FeatureOps.advance`, measured once."""
        if self.advanced is None:
            assert self.moved is not None  # measured
            (before, last), now = self.branch.histories[PROBED].features(0), self.moved
            pairs = {Signal.PROBE: (now, before), Signal.FIRST_BLOCKS: (last, before)}
            parts = {p: (self._unpadded(x), self._unpadded(y)[0]) for p, (x, y) in pairs.items()}
            wholes = {p: whole for p, ((_, whole), _) in parts.items()}
            far = self.tools.meter.read({p: (x, y) for p, ((x, _), y) in parts.items()}, wholes)
            self.advanced = RelativeL1(far[Signal.PROBE].delta, far[Signal.FIRST_BLOCKS].delta).ratio
        return self.advanced

    def _band(self, x: Tensor, cutoff: float) -> Tensor:
        """Of tokens [B, S, D] at the exit (or [B, *sides, D]), what changes slowly over their grid."""
        grid = self.call.grid(self.branch)
        basis = self.tools.basis(grid, cutoff, x.device)
        return self.call.ranks.project(self.call.transformer, basis, x.flatten(1, -2)).reshape(x.shape)

    def _slow_waves(self, x: Tensor, part: float) -> Tensor:
        """Of an output: pictures [..., H, W], or tokens [B, S, C] in the boxes that the spec's grid tells."""
        if x.ndim != 3:
            return slow_waves(x, part)
        if self.spec.grid is None or sum(map(math.prod, self.call.grid(self.branch))) != x.shape[1]:
            raise RuntimeError(
                f"the output of {self.spec.transformer} is {x.shape[1]} tokens, and its spec does not tell the grid "
                "that they lie in (grid=), whose waves are asked for"
            )
        parts = torch.split(x.mT, [math.prod(box) for box in self.call.grid(self.branch)], 2)
        shaped = [
            each.reshape(*each.shape[:2], *box) for each, box in zip(parts, self.call.grid(self.branch), strict=True)
        ]
        return torch.cat([slow_waves(each, part).flatten(2) for each in shaped], 2).mT

    def record(self, key: str, rule: Rule, tensors: Sequence[Tensor]) -> History:
        history, now = self.branch.histories.get(key), self.step.index
        if history is None:
            history = History(
                rule.forecast.num_features, self.tools.storage, self.tools.backend, rule.forecast.num_forecasts
            )
            self.branch.histories[key] = history
        if history.step == now:
            raise RuntimeError(f"{key} ran twice in one forward; its outputs cannot be told apart and so not be cached")
        if history.step < rule.drop_before:
            history.clear()
        self.tools.watch(tensors)
        history.push(self.time(rule), tensors)
        history.step = now
        return history

    def time(self, rule: Rule) -> float:
        """Now, as the rule's forecaster counts."""
        return float(self.step.index) if rule.forecast.over == "step" else self.call.noise().noise
