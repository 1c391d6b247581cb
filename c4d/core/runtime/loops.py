"""What the loops over a model's blocks run in a pass: the blocks, nothing, or what is between the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from c4d.core.caching.rules import Rule
from c4d.core.integration.blocks import StandIn, bind, streams, unbind
from c4d.core.integration.offload import onloaded
from c4d.core.spec import AtEntry, Stack
from c4d.core.types import OUTPUT, STACK, Action, Probe

if TYPE_CHECKING:
    from c4d.core.runtime.forward import Pass

COMPUTE, REUSE = Action.COMPUTE, Action.REUSE


class Loops:
    """Those of one pass, which does not hold this in turn: the two would outlive it, and its tensors with them."""

    def __init__(self, current: Pass) -> None:
        self._pass = current

    def iterate(self, stack: Stack, blocks: list[nn.Module]) -> Iterator[Any]:
        """What a loop over one of the spec's stacks runs in this pass.

        Nothing if it is reused; with a rule that keeps blocks at the end, the others' places are held by fillers, for
        a loop's body may count. Blocks at which something is to be noted or put in have a stand-in.
        """
        rule = self._pass.whole
        if self._pass.action is REUSE and not (rule and rule.tail):
            return
        if stack.side or rule is None or OUTPUT in rule.at:
            self._pass.passed += len(blocks) * (not stack.side)
            yield from self._count(blocks)
            return
        resumed = self._length() - rule.tail
        for block in blocks:
            i = self._pass.passed
            self._pass.passed += 1
            if self._pass.action is REUSE and i < resumed:
                yield StandIn(block, lambda _, args, kwargs: unbind(stack, bind(stack, args, kwargs)))
            elif rule.tail and i == resumed:
                yield StandIn(block, partial(self._resume, stack, rule))
            elif self._pass.action is None and i == max(0, rule.head - 1):
                yield StandIn(block, partial(self._probe, stack))
                if self._pass.action is REUSE and not rule.tail:
                    return
            elif i == 0 and (self._pass.action is None or (self._pass.action is COMPUTE and rule.base == "input")):
                yield StandIn(block, partial(self._enter, stack))
            else:
                yield from self._count([block])

    def _length(self) -> int:
        """Blocks in the chain."""
        paths = [stack.path for stack in self._pass.spec.stacks if not stack.side]
        return sum(len(list(self._pass.call.transformer.get_submodule(path).children())) for path in paths)

    def _count(self, blocks: Sequence[nn.Module]) -> Iterator[nn.Module]:
        for block in blocks:
            self._pass.blocks += 1
            yield block

    def _enter(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._pass.base = bind(stack, args, kwargs)
        self._pass.blocks += 1
        return block(*args, **kwargs)

    def _probe(self, stack: Stack, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Decides at the first block: before it if its input is enough; for HEAD, after the last block of the head."""
        named = bind(stack, args, kwargs)
        probes, now = self._pass.method.probes, dict(self._pass.signals)
        entry = {p: s for p in probes if isinstance(s := self._pass.spec.signals.get(p), AtEntry)}
        if missing := probes - {*now, *entry, Probe.HEAD, Probe.OUTPUT}:
            names = ", ".join(sorted(p.value for p in missing))
            raise RuntimeError(
                f"{self._pass.spec.transformer}: {names} did not show up before the blocks; its spec is wrong"
            )
        if entry:
            with onloaded(block):
                mine = self._pass.call.ranks.mine(self._pass.call.transformer, named)
                now.update({p: s.read(block, mine).detach() for p, s in entry.items()})
        if Probe.HEAD not in probes:
            self._pass.decide(now)
            if self._pass.action is REUSE:
                self._pass.base = named
                return unbind(stack, named)
            return self._enter(stack, block, args, kwargs)
        start = self._pass.base.get("hidden_states", named["hidden_states"])  # of the first block
        out = block(*args, **kwargs)
        self._pass.blocks += 1
        self._pass.base = streams(stack, out)
        self._pass.decide({**now, Probe.HEAD: (self._pass.base["hidden_states"] - start).detach()})
        return out

    def _resume(self, stack: Stack, rule: Rule, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first block of the tail: what came to it is recorded, or replaced by its forecast."""
        named = bind(stack, args, kwargs)
        names = [name for name in self._pass.base if isinstance(named.get(name), Tensor)]
        if self._pass.action is REUSE:
            history, base = self._pass.branch.histories[STACK], [self._pass.base[name] for name in names]
            made = self._pass.forecast(history, rule, base)
            named.update(zip(names, made, strict=True))
            args = tuple(named[name] for name in stack.takes[: len(args)])
            kwargs = {name: named[name] for name in kwargs}
        else:
            self._pass.record(STACK, rule, [named[name] - self._pass.base[name] for name in names])
        self._pass.blocks += 1
        return block(*args, **kwargs)
