"""Modules of one forward that can compute some of their tokens: which ones, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.caching.rules import TokenRule
from c4d.core.caching.selectors import TokenView, take
from c4d.core.integration.attach import ModuleSite
from c4d.core.runtime.context import ForwardContext
from c4d.core.runtime.history import History
from c4d.core.runtime.state import CacheState
from c4d.core.runtime.tokens import averaged, cells_of, drawn, lying, twins
from c4d.core.types import Step


class TokenCall:
    """A call of such a module: its first argument ``x`` [B, S, D], and the module on other tokens in its place."""

    def __init__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._original, self._args, self._kwargs, self._name = original, args, kwargs, next(iter(kwargs), "")
        self.x: Tensor = args[0] if args else kwargs[self._name]

    def on(self, x: Tensor) -> Any:
        """What the module makes of ``x``."""
        if self._args:
            return self._original(x, *self._args[1:], **self._kwargs)
        return self._original(**{**self._kwargs, self._name: x})


class TokenSites:
    """Those of one forward of ``branch``; ``total`` and ``computed`` count the tokens that came to them."""

    total = computed = 0
    _pairs: tuple[Tensor | None] | None = None  # the rows of the batch that pick alike, if somebody asked

    def __init__(self, branch: CacheState, step: Step, call: ForwardContext) -> None:
        self._branch, self._step, self._call = branch, step, call

    def all_of(self, place: ModuleSite, rule: TokenRule, call: TokenCall) -> Tensor:
        """What the module returns for all tokens [B, S, D]: none of them has waited, and they are grouped anew."""
        x, memory = call.x, self._branch.tokens
        self.total += x.shape[:2].numel()
        out = call.on(x)
        if not isinstance(out, Tensor) or x.ndim != 3 or out.shape[:2] != x.shape[:2] or out.ndim != 3:
            raise RuntimeError(
                f"{place.key} of {self._call.spec.transformer} does not make each token [B, S, D] by itself; its Site "
                "is one with by_token=False"
            )
        self.computed += x.shape[:2].numel()
        memory.when.pop(place.key, None)
        known = memory.centroids.get(place.stream)
        if place.last and (found := rule.select.grouped(x.detach(), known, self._draws(place.stream, x.device))):
            memory.centroids[place.stream], memory.labels[place.stream] = found
        return out

    def some_of(
        self, place: ModuleSite, rule: TokenRule, history: History, made: Tensor, call: TokenCall, partial: bool
    ) -> Tensor | None:
        """The forecast ``made`` [B, S, D] with the picked tokens computed, which ``history`` moves with; None if none
        are: the step is not a ``partial`` one, or they come to less than one."""
        select, memory, (B, S) = rule.select, self._branch.tokens, call.x.shape[:2]
        self.total += B * S
        count = select.count(S, self._step, place.depth) if partial else 0
        if not count:
            return None
        self.computed += B * count
        before = made if select.anchored else history.features(0)[-1]
        when = memory.when.get(place.key, torch.full((B, S), float(history.step), device=call.x.device))
        new: Tensor
        if count == S:
            new, memory.when[place.key] = call.on(call.x), torch.full_like(when, self._step.index)
        else:
            rows = self._picked(place, rule, made, self._step.index - when, count)
            new = select.spread(before, rows, call.on(take(call.x, rows)), memory.labels.get(place.stream))
            memory.when[place.key] = when.scatter(1, rows, float(self._step.index))
        history.renew(0, new, before)
        return new if select.anchored else made + (new - before)

    def _picked(self, place: ModuleSite, rule: TokenRule, made: Tensor, since: Tensor, count: int) -> Tensor:
        """[B, count]: the tokens that are computed; of several branches of guidance the first one of a step picks."""
        select, known, S = rule.select, self._call.picked.get(place.key), made.shape[1]
        if select.shared and known is not None and known[0] == self._step.index and known[1] == made.shape[:2]:
            return known[2]
        draw = self._draws(place.key, made.device)
        labels = self._branch.tokens.labels.get(place.stream)
        where = self._step, place.depth, self._cells(place, select.cell, S, made.device), labels
        rows = select.select(TokenView(made, since, *where, draw, self._alike), count)
        if select.shared:
            self._call.picked[place.key] = self._step.index, made.shape[:2], rows
        return rows

    def _draws(self, key: str, device: torch.device) -> Callable[[int], Tensor]:
        return lambda n: drawn(n, self._step.index, key, device)

    def _cells(self, place: ModuleSite, side: int, tokens: int, device: torch.device) -> Tensor | None:
        if not side:
            return None
        held, joined = self._branch.tokens.cells, place.stack.joined if place.stack else None
        if place.stream not in held:
            own = self._call.ranks.own(self._call.transformer, cells_of(self._call.grid(self._branch), side))
            held[place.stream] = lying(own, tokens, joined).to(device)
        return held[place.stream]

    def _alike(self, score: Tensor) -> Tensor:
        if self._pairs is None:
            self._pairs = (twins(self._call.latents()),)
        return averaged(score, self._pairs[0])
