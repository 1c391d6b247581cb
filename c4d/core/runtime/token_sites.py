"""Modules of one forward that can compute some of their tokens: which ones, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from c4d.core.attention import Processor, watching
from c4d.core.caching.rules import TokenRule
from c4d.core.caching.selectors import Selector, TokenView, take
from c4d.core.integration.attach import ModuleSite
from c4d.core.runtime.context import ForwardContext
from c4d.core.runtime.history import History
from c4d.core.runtime.state import CacheState
from c4d.core.runtime.tokens import alike_in_size, averaged, cells_of, drawn, frames_of, lengths, lying, received, twins
from c4d.core.spec import STREAM, TEXT_STREAM
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
        if place.last:
            draw, frames = self._draws(place.stream, x.device), self._frames(place, rule.select, x)
            found = rule.select.grouped(x.detach(), memory.clusters.get(place.stream), draw, frames)
            if found is not None:
                memory.clusters[place.stream] = found
        return out

    def some_of(
        self, place: ModuleSite, rule: TokenRule, history: History, made: Tensor, call: TokenCall, partial: bool
    ) -> Tensor | None:
        """The forecast ``made`` [B, S, D] with the picked tokens computed, which ``history`` moves with; None if none
        are: the step is not a ``partial`` one, or they come to less than one."""
        select, memory, (B, S) = rule.select, self._branch.tokens, call.x.shape[:2]
        self.total += B * S
        frames = self._frames(place, select, call.x)
        count = (
            sum(len(each) * select.count(each.shape[1], self._step, place.depth) for each in frames) if partial else 0
        )
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
            new = select.spread(before, rows, call.on(take(call.x, rows)), memory.clusters.get(place.stream))
            memory.when[place.key] = when.scatter(1, rows, float(self._step.index))
        history.renew(0, new, before)
        return new if select.anchored else made + (new - before)

    def _picked(self, place: ModuleSite, rule: TokenRule, made: Tensor, since: Tensor, count: int) -> Tensor:
        """[B, count]: the tokens that are computed; of several branches of guidance the first one of a step picks."""
        select, known, S = rule.select, self._call.picked.get(place.key), made.shape[1]
        if select.shared and known is not None and known[0] == self._step.index and known[1] == made.shape[:2]:
            return known[2]
        draw = self._draws(place.key, made.device)
        clusters = self._branch.tokens.clusters.get(place.stream)
        labels = None if clusters is None else clusters.labels
        where = self._step, place.depth, self._cells(place, select.cell, S, made.device), labels
        weight = None if select.reads is None else self._weight(place, made.shape[:2])
        rows = select.select(
            TokenView(made, since, *where, weight, self._frames(place, select, made), draw, self._alike), count
        )
        if select.shared:
            self._call.picked[place.key] = self._step.index, made.shape[:2], rows
        return rows

    @contextmanager
    def weighing(self, place: ModuleSite, what: str, x: Tensor) -> Iterator[None]:
        """While the self-attention at ``place`` computes ``x`` [B, S, D]: keeps what its tokens weigh there.

        It is read from what goes into the attention, in a processor of c4d's. Raises RuntimeError where that is not all
        of it: another processor, heads or queries on other ranks.
        """
        module, spec = self._call.transformer.get_submodule(place.key), self._call.spec
        instead = f"score={what} of {spec.transformer} cannot be read of {place.key}: %s; or use score=norm or random"
        processor, seen = getattr(module, "processor", None), list[dict[str, Tensor]]()
        if not isinstance(processor, Processor):
            own = (
                f"it attends with {type(processor).__name__}, which shows nobody its keys; enter c4d.attention(pipe), "
            )
            raise RuntimeError(instead % f"{own}or c4d.accelerate(pipe, cache=…, attention='auto')")

        def watch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, text_first: bool) -> None:
            if q.shape[2] != processor.heads_of(module)[0]:
                raise RuntimeError(instead % "its heads are spread over ranks, each of which would pick other tokens")
            if what == "attention" and processor.work.spread is not None:
                raise RuntimeError(instead % "its queries are spread over ranks; key and value are of each token alone")
            weight = received(q, k.to(q.dtype), mask) if what == "attention" else lengths(k if what == "key" else v)
            text = weight.shape[1] - x.shape[1]
            sizes = [text, x.shape[1]] if text_first else [x.shape[1], text]
            names = (TEXT_STREAM, STREAM) if text_first else (STREAM, TEXT_STREAM)
            seen.append(dict(zip(names, torch.split(weight.detach(), sizes, 1), strict=True)))

        with watching(processor.work, watch):
            yield
        if len(seen) != 1:
            raise RuntimeError(instead % f"it attends {len(seen)} times")
        self._branch.tokens.weights[place.block] = seen[0]

    def _weight(self, place: ModuleSite, shape: Sequence[int]) -> Tensor:
        """[B, S] fp32: what the tokens of a module weigh in the self-attention of its block."""
        known = self._branch.tokens.weights.get(place.block, {})
        parts = [known[stream] for stream in place.streams if stream in known]
        found = torch.cat(parts, 1) if parts else None
        if found is None or found.shape != shape:
            there = {name: list(x.shape) for name, x in known.items()}
            raise RuntimeError(
                f"{place.key} has tokens {list(shape)} of {', '.join(place.streams)}, and "
                f"the self-attention of its block weighed {there}: use score=norm or random"
            )
        return found

    def _draws(self, key: str, device: torch.device) -> Callable[[int], Tensor]:
        return lambda n: drawn(n, self._step.index, key, device)

    def _cells(self, place: ModuleSite, side: int, tokens: int, device: torch.device) -> Tensor | None:
        if not side:
            return None
        held = self._branch.tokens.cells
        if place.stream not in held:
            held[place.stream] = self._lying(place, cells_of(self._call.grid(self._branch), side), tokens).to(device)
        return held[place.stream]

    def _frames(self, place: ModuleSite, select: Selector, x: Tensor) -> list[Tensor]:
        """The frames of the tokens ``x`` [B, S, D] of a module (:class:`c4d.core.caching.selectors.TokenView`)."""
        held = self._branch.tokens.frames
        if place.stream not in held:
            of = torch.zeros(x.shape[1], dtype=torch.int64)
            if select.framed:
                of = self._lying(place, frames_of(self._call.grid(self._branch)), x.shape[1])
            held[place.stream] = [table.to(x.device) for table in alike_in_size(of)]
        return held[place.stream]

    def _lying(self, place: ModuleSite, numbers: Tensor, tokens: int) -> Tensor:
        """[tokens]: of numbers for all tokens of the grid those of the tokens of a module on this rank."""
        own = self._call.ranks.own(self._call.transformer, numbers)
        return lying(own, tokens, place.streams, None if place.stack is None else place.stack.joined)

    def _alike(self, score: Tensor) -> Tensor:
        if self._pairs is None:
            self._pairs = (twins(self._call.latents()),)
        return averaged(score, self._pairs[0])
