"""One forward of a run: it decides once, then tells loops, exit and modules what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.core.attach import Place
from c4d.core.history import History
from c4d.core.offload import Bridge, onloaded
from c4d.core.run import Branch, Tools
from c4d.core.spec import AtEntry, ModelSpec, Stack
from c4d.core.stack import StandIn, bind, hidden, unbind
from c4d.core.types import OUTPUT, Action, CacheMethod, Change, Probe, Rule, Step

COMPUTE, REUSE = Action.COMPUTE, Action.REUSE


class Pass:
    """One forward of one transformer: decides once, then tells loops, exit and sites what to do."""

    seen: Mapping[Probe, Change] = MappingProxyType({})
    base: Tensor | None = None  # the hidden state that the stack's feature is relative to
    entered = exited = answered = restarted = False
    blocks = modules = modules_reused = 0
    bridge: Bridge | None = None
    # A signal without tokens that are nobody's, and how many numbers all ranks have of it.
    valid: Callable[[Tensor], tuple[Tensor, int]] = staticmethod(lambda x: (x, x.numel()))

    def __init__(self, spec: ModelSpec, method: CacheMethod, branch: Branch, step: Step, tools: Tools) -> None:
        self.spec, self.method, self.branch, self.step, self.tools = spec, method, branch, step, tools
        self.rules, self.whole = method.rules, method.whole
        self.actions: list[Action | None] = [None] * len(method.rules)
        self.started = time.perf_counter()
        self._signals: dict[Probe, Tensor] = {}
        if not method.probes:
            self._decide({})

    @property
    def action(self) -> Action | None:
        """What the whole pass does; None while undecided. A method of module rules computes the pass."""
        return self.actions[0] if self.whole else COMPUTE

    def check(self) -> None:
        """Raises RuntimeError unless the forward that just ended went the way that its spec says."""
        skipped, at_output = self.action is REUSE, self.whole is not None and OUTPUT in self.whole.at
        if skipped and at_output and not self.answered:
            raise RuntimeError(f"{self.spec.transformer}: its forward was exchanged during the pass; run it again")
        if self.action is None or (not skipped and not (self.exited and self.entered)):
            raise RuntimeError(
                f"{self.spec.transformer}: the forward did not pass through {self.spec.stacks[0].path!r} and "
                f"{self.spec.exit!r}; its spec does not describe this model"
            )
        if skipped and not self.exited and not at_output:
            raise RuntimeError(
                f"{self.spec.transformer}: a reused pass did not reach {self.spec.exit!r}; its spec is wrong"
            )

    # -- deciding

    def signal(self, probe: Probe, value: Tensor) -> None:
        """A signal that became known before the blocks; when all are in, the pass is decided."""
        self._signals[probe] = value.detach()
        if self.action is None and self.method.probes <= self._signals.keys():
            self._decide(self._signals)

    def _decide(self, now: Mapping[Probe, Tensor]) -> None:
        parts = {probe: self.valid(value) for probe, value in now.items()}
        now, wholes = {p: x for p, (x, _) in parts.items()}, {p: n for p, (_, n) in parts.items()}
        broken, states = bool(now) and self._measure(now, wholes), self.branch.states
        for i, rule in enumerate(self.rules):
            ready = self._ready(rule)
            state = states[i] if ready and not broken else rule.policy.init()
            self.actions[i], states[i] = rule.policy.decide(state, self.step, self.seen)
            if not ready and self.actions[i] is REUSE:
                raise RuntimeError(
                    f"{type(rule.policy).__name__} reuses from a fresh state; a policy must compute first"
                )
        for probe, value in now.items():
            if not probe.anchored or COMPUTE in self.actions:
                self.branch.before[probe] = value

    def _measure(self, now: Mapping[Probe, Tensor], wholes: Mapping[Probe, int]) -> bool:
        """Fills ``seen``; True if any of it is not finite."""
        before = self.branch.before
        self.seen = self.tools.meter.read(
            {p: (x, before[p]) for p, x in now.items() if p in before and before[p].shape == x.shape}, wholes
        )
        broken = sum(not change.finite for change in self.seen.values())
        self.tools.nonfinite += broken
        return broken > 0

    def _ready(self, rule: Rule) -> bool:
        """True if something is stored that the rule could reuse."""
        if rule.whole:
            return rule.at[0] in self.branch.histories
        return any(key.startswith(f"{kind}:") for kind in rule.at for key in self.branch.histories)

    # -- the loops

    def iterate(self, stack: Stack, blocks: list[nn.Module]) -> Iterator[Any]:
        """What a loop over one of the spec's stacks runs in this pass."""
        if self.action is REUSE:
            return
        if stack.side or self.entered or not blocks:
            yield from self._count(blocks)
            return
        self.entered = True
        first, rest = blocks[0], blocks[1:]
        if self.action is None:
            yield StandIn(first, lambda block, args, kwargs: self._probe(stack, block, args, kwargs))
            if self.action is REUSE:
                return
        elif self.whole and self.whole.base == "input" and OUTPUT not in self.whole.at:
            yield StandIn(first, lambda block, args, kwargs: self._enter(stack, block, args, kwargs))
        else:
            rest = blocks
        yield from self._count(rest)

    def _count(self, blocks: Sequence[nn.Module]) -> Iterator[nn.Module]:
        for block in blocks:
            self.blocks += 1
            yield block

    def _enter(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.base = bind(stack, args, kwargs)["hidden_states"]
        self.blocks += 1
        return block(*args, **kwargs)

    def _probe(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Decides at the first block: before it if its input is enough, after it for HEAD."""
        named = bind(stack, args, kwargs)
        probes, now = self.method.probes, dict(self._signals)
        entry = {p: s for p in probes if isinstance(s := self.spec.signals.get(p), AtEntry)}
        if missing := probes - {*now, *entry, Probe.HEAD}:
            names = ", ".join(sorted(p.value for p in missing))
            raise RuntimeError(f"{self.spec.transformer}: {names} did not show up before the blocks; its spec is wrong")
        if entry:
            with onloaded(block):
                now.update({p: s.read(block, named).detach() for p, s in entry.items()})
        if Probe.HEAD not in probes:
            self._decide(now)
            if self.action is REUSE:
                self.base = named["hidden_states"]
                return unbind(stack, named)
            return self._enter(stack, block, args, kwargs)
        out = block(*args, **kwargs)
        self.blocks += 1
        self.base = hidden(stack, out)
        self._decide({**now, Probe.HEAD: (self.base - named["hidden_states"]).detach()})
        return out

    # -- the exit

    def exit(self, x: Tensor) -> Tensor:
        """The hidden state on its way out of the loops: recorded, or replaced by its forecast."""
        self.exited = True
        rule = self.whole
        if rule is None or rule.at[0] == OUTPUT:
            return x
        base = None if rule.base == "zero" else self.base
        if self.action is REUSE:
            base = x if base is None and rule.base == "input" else base
            history = self.branch.histories[rule.at[0]]
            return self.tools.forecast(history, rule.forecast, self.step.index, base=base).to(x.dtype)
        if base is None and rule.base == "input":
            raise RuntimeError(
                f"{self.spec.transformer}: the exit was reached without entering a block; its spec is wrong"
            )
        feature = x if base is None else (x - base).to(base.dtype)
        self._record(rule.at[0], rule, [feature])
        return x

    # -- modules

    def at_site(self, place: Place, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a cached module returns: its own output, recorded, or the forecast of it."""
        rule, reuse = self.rules[place.rule], self.reuses(place)
        if place.key == OUTPUT:
            self.answered = True
        else:
            self.modules += 1
            self.modules_reused += reuse
        if reuse:
            history, t = self.branch.histories[place.key], self.step.index
            if history.structure is None:
                return self.tools.forecast(history, rule.forecast, t)
            leaves = [self.tools.forecast(history, rule.forecast, t, i) for i in range(history.width)]
            return pytree.tree_unflatten(leaves, history.structure)
        out = original(*args, **kwargs)
        leaves, structure = ([out], None) if isinstance(out, Tensor) else pytree.tree_flatten(out)
        if strange := [type(x).__name__ for x in leaves if not isinstance(x, Tensor)]:
            raise TypeError(f"{place.key} returned {', '.join(strange)} among its tensors; cannot be cached")
        self._record(place.key, rule, leaves).structure = structure
        return out

    def reuses(self, place: Place) -> bool:
        """True if this pass forecasts the module there (and the modules that this bypasses hand out fillers)."""
        return self.actions[place.rule] is REUSE and place.key in self.branch.histories

    def _record(self, key: str, rule: Rule, tensors: Sequence[Tensor]) -> History:
        history = self.branch.histories.get(key)
        if history is None:
            history = History(rule.forecast.history, self.tools.storage, self.tools.backend)
            self.branch.histories[key] = history
        if history.times and history.times[-1] == self.step.index:
            raise RuntimeError(f"{key} ran twice in one pass; its outputs cannot be told apart and so not be cached")
        history.push(float(self.step.index), tensors)
        return history
