"""One generation and one forward of it: every mutable thing of a run lives here, keyed by branch and expert."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.core.history import History, Storage
from c4d.core.measure import Meter
from c4d.core.offload import Bridge, onloaded
from c4d.core.stack import StandIn, bind, hidden, unbind
from c4d.core.types import OUTPUT, Action, AtEntry, Forecaster, ModelSpec, Primitives, Probe, Rule, Stack, Step

COMPUTE, REUSE = Action.COMPUTE, Action.REUSE


@dataclass
class Branch:
    """What one branch on one expert remembers within a run; empty until its first :meth:`reset`."""

    states: list[Any] = field(default_factory=list)
    histories: dict[str, History] = field(default_factory=dict)
    before: dict[Probe, Tensor] = field(default_factory=dict)
    signature: Any = None

    def storages(self) -> dict[int, int]:
        held = {p: n for history in self.histories.values() for p, n in history.storages().items()}
        held.update({(s := x.untyped_storage()).data_ptr(): s.nbytes() for x in self.before.values()})
        return held

    def reset(self, rules: Sequence[Rule]) -> None:
        self.states = [rule.policy.init() for rule in rules]
        self.histories.clear()
        self.before.clear()


@dataclass
class Run:
    """One generation: its number and its branches."""

    number: int
    branches: dict[tuple[str, int], Branch] = field(default_factory=dict)

    def bytes(self) -> int:
        held: dict[int, int] = {}
        for branch in self.branches.values():
            held.update(branch.storages())
        return sum(held.values())


@dataclass
class Tools:
    """What every pass of a session works with."""

    backend: Primitives
    meter: Meter
    storage: Storage
    nonfinite: int = 0

    def forecast(
        self, history: History, forecaster: Forecaster, t: float, i: int = 0, base: Tensor | None = None
    ) -> Tensor:
        """The i-th tensor of ``history`` forecast at ``t``, plus ``base``; in the dtype of ``base``, else its own."""
        weights, features = list(forecaster.weights(history.times, t)), history.features(i)
        if base is not None:
            weights, features = [1.0, *weights], [base, *features]
        exact = torch.float64 if features[0].dtype == torch.float64 else torch.float32
        return self.backend.lincomb(features, torch.tensor(weights, dtype=exact, device=features[0].device))


class Pass:
    """One forward of one transformer: decides once, then tells loops, exit and sites what to do."""

    def __init__(self, spec: ModelSpec, rules: Sequence[Rule], branch: Branch, step: Step, tools: Tools) -> None:
        self.spec, self.rules, self.branch, self.step, self.tools = spec, rules, branch, step, tools
        self.actions: list[Action | None] = [None] * len(rules)
        self.whole = rules[0] if rules[0].whole else None
        self.base: Tensor | None = None  # the hidden state that the stack's feature is relative to
        self.entered = self.exited = self.answered = False
        self.blocks = self.modules = self.modules_reused = 0
        self.bridge: Bridge | None = None
        self.started = time.perf_counter()
        self._signals: dict[Probe, Tensor] = {}
        if not any(rule.policy.probes for rule in rules):
            self._decide({})

    @property
    def action(self) -> Action | None:
        """What the whole pass does; None while undecided. A method of module rules computes the pass."""
        return self.actions[0] if self.whole else COMPUTE

    # -- deciding

    def signal(self, probe: Probe, value: Tensor) -> None:
        """A signal that became known before the blocks; when all are in, the pass is decided."""
        self._signals[probe] = value.detach()
        if self.action is None and self.rules[0].policy.probes <= set(self._signals):
            self._decide(self._signals)

    def _decide(self, now: Mapping[Probe, Tensor]) -> None:
        before = self.branch.before
        pairs = {p: (x, before[p]) for p, x in now.items() if p in before and before[p].shape == x.shape}
        seen = self.tools.meter.read(pairs)
        broken = [p for p, change in seen.items() if not change.finite]
        self.tools.nonfinite += len(broken)
        for i, rule in enumerate(self.rules):
            if broken or not self._ready(rule):
                self.branch.states[i] = rule.policy.init()
            self.actions[i], self.branch.states[i] = rule.policy.decide(self.branch.states[i], self.step, seen)
            if self.actions[i] is REUSE and not self._ready(rule):
                raise RuntimeError(
                    f"{type(rule.policy).__name__} reuses from a fresh state; a policy must compute first"
                )
        before.update({p: x for p, x in now.items() if not p.anchored or COMPUTE in self.actions})

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
        policy, now = self.rules[0].policy, dict(self._signals)
        entry = {p: s for p in policy.probes if isinstance(s := self.spec.signals.get(p), AtEntry)}
        if missing := policy.probes - {*now, *entry, Probe.HEAD}:
            names = ", ".join(sorted(p.value for p in missing))
            raise RuntimeError(f"{self.spec.transformer}: {names} did not show up before the blocks; its spec is wrong")
        if entry:
            with onloaded(block):
                now.update({p: s.read(block, named).detach() for p, s in entry.items()})
        if Probe.HEAD not in policy.probes:
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

    def at_site(self, kind: str, path: str, run: Any) -> Any:
        """What a cached module returns: its own output, recorded, or the forecast of it."""
        index, key = self._place(kind, path)
        rule, history = self.rules[index], self.branch.histories.get(key)
        self.answered = self.answered or kind == OUTPUT
        self.modules += kind != OUTPUT
        if self.actions[index] is REUSE and history is not None:
            self.modules_reused += kind != OUTPUT
            leaves = [self.tools.forecast(history, rule.forecast, self.step.index, i) for i in range(history.width)]
            return pytree.tree_unflatten(leaves, history.structure)
        out = run()
        leaves, structure = pytree.tree_flatten(out)
        if strange := [type(x).__name__ for x in leaves if not isinstance(x, Tensor)]:
            raise TypeError(
                f"{path or 'the transformer'} returned {', '.join(strange)} among its tensors; cannot be cached"
            )
        self._record(key, rule, leaves).structure = structure
        return out

    def bypasses(self, kind: str, path: str) -> bool:
        """True if this pass reuses the site, so that the modules it bypasses hand out fillers."""
        index, key = self._place(kind, path)
        return self.actions[index] is REUSE and key in self.branch.histories

    def _place(self, kind: str, path: str) -> tuple[int, str]:
        """The number of the rule that holds for a site, and the key of its history."""
        index = next(i for i, rule in enumerate(self.rules) if kind in rule.at)
        return index, f"{kind}:{path}" if kind != OUTPUT else OUTPUT

    def _record(self, key: str, rule: Rule, tensors: Sequence[Tensor]) -> History:
        if key not in self.branch.histories:
            self.branch.histories[key] = History(rule.forecast.history, self.tools.storage, self.tools.backend)
        history = self.branch.histories[key]
        if history.times and history.times[-1] == self.step.index:
            raise RuntimeError(f"{key} ran twice in one pass; its outputs cannot be told apart and so not be cached")
        history.push(float(self.step.index), tensors)
        return history
