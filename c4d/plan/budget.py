"""Where weights and histories go, so that a request fits into so many bytes of a device.

Weights and histories are known to the byte; what the pipeline and its components compute with is estimated, and a
``MARGIN`` of it is added, for what operators take besides their results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import product
from typing import Any, NamedTuple

import torch

from c4d.backends import Backend
from c4d.core.caching.rules import CacheMethod
from c4d.core.integration.transformers import transformers_of
from c4d.core.runtime.history import HistoryConfig
from c4d.memory_modes.mode import Kind, on_host
from c4d.memory_modes.text import parse_memory
from c4d.models import spec_for
from c4d.parallel.degrees import Degrees
from c4d.plan.rehearsal import Called, rehearsed, without_numbers, worst
from c4d.plan.run import PlanError, Setup
from c4d.plan.sizes import told
from c4d.plan.table import Planner, Row

MARGIN = 0.1  # of what is estimated
ALONE = Degrees(1, 1)
# Exact ones first, and of these the cheapest: what is copied once a request, in every step, and while the device waits.
STORED = ("", "float8")
PLACES = (("full", "components"), ("groups",), ("sequential",))
DECODERS = ("", "tiled")
MORE = "try a larger budget, a method that keeps less (@blocks, a lower order), a smaller size, or more ranks"
BY_HAND = "leave the budget out, and choose a memory mode and where histories are kept by hand (docs/memory.md)"


class Need(NamedTuple):
    """Bytes on the device while the component ``name`` runs; ``decoding``: after the last step."""

    name: str
    weights: int
    cache: int
    at_work: int
    decoding: bool = False

    @property
    def margin(self) -> int:
        return round(MARGIN * self.at_work)

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.at_work + self.margin

    def __str__(self) -> str:
        parts = [f"weights {told(self.weights)}", f"cache {told(self.cache)}" if self.cache else ""]
        estimated = f"at work about {told(self.at_work)} and {told(self.margin)} to spare"
        return f"{told(self.total)} while {self.name} runs ({', '.join(filter(None, [*parts, estimated]))})"


@dataclass(frozen=True)
class Limits:
    """Bytes of one device: ``device`` for all of a request, ``cache`` for its histories (None: no limit)."""

    device: int | None = None
    cache: int | None = None


@dataclass(frozen=True)
class Choice:
    """What fits, ready for :func:`c4d.memory` and (``**choice.history``) :func:`c4d.cached`; ``said`` says why.

    ``memory`` is None where no mode was asked for, and nothing limits the device.
    """

    memory: str | None
    history_dtype: torch.dtype | None
    history_on: str
    said: tuple[str, ...]

    @property
    def history(self) -> dict[str, Any]:
        return {"history_dtype": self.history_dtype, "history_on": self.history_on}

    def __str__(self) -> str:
        return "\n".join(self.said)


@dataclass(frozen=True)
class Given:
    """What is chosen already, and only checked: a memory mode, and how histories are kept (None: open)."""

    memory: str | None = None
    history_dtype: torch.dtype | None = None
    history_on: str | None = None


class Needs:
    """What ``pipe(**call)`` takes of one device; nothing is computed, and ``pipe`` may lack its weights' numbers.

    ``degrees`` say how ranks share the request.
    """

    def __init__(
        self,
        pipe: Any,
        call: Mapping[str, Any],
        method: CacheMethod | None,
        *,
        backend: Backend,
        degrees: Degrees = ALONE,
    ) -> None:
        self.method, self.backend = method, backend
        self._pipe, self._call, self._degrees = without_numbers(pipe), call, degrees
        self._rows: dict[tuple[str, HistoryConfig | None], Row] = {}
        self._calls: dict[str, list[Called]] = {}
        self._stored: dict[str, Any] = {}

    def lacking(self, memory: str) -> str | None:
        """Why ``memory`` cannot be, in words."""
        for mode, part in parse_memory(memory).parts:
            if part.holds is None:
                return f"{mode.name} does not say what it holds, and no budget can count on it: take another"
            if (reason := part.lacking(self._pipe, self.backend)) is not None:
                return reason
        return None

    def cache(self, storage: HistoryConfig) -> int:
        """What histories and signals hold on the device; of several experts at most, as if each made every step."""
        if self.method is None:
            return 0
        names = {call.name for call in self._rehearsed("") if call.given is not None}
        return sum(self._row(name, storage).on_device for name in names)

    def phases(self, memory: str, storage: HistoryConfig) -> list[Need]:
        """What is needed while each component runs, in their order."""
        parts = parse_memory(memory).parts
        apart = {kind: "+".join(mode.name for mode, _ in parts if mode.kind is kind) for kind in Kind}
        stored, calls = self._storing(apart[Kind.NUMBERS]), self._rehearsed(apart[Kind.DECODER])
        denoising = [i for i, call in enumerate(calls) if call.given is not None]
        cache, found = self.cache(storage), list[Need]()
        for i, call in enumerate(calls):
            names = [each.name for each in calls[: i + 1]]
            weights = sum(part.holds(stored, names, self.backend) for _, part in parts if part.holds)
            held = cache if denoising[0] <= i <= denoising[-1] else 0
            work = call.peak if call.given is None else call.around + self._forward(call.name, storage)
            found.append(Need(call.name, weights, held, work, i > denoising[-1]))
        return found

    def _storing(self, numbers: str) -> Any:
        """The pipeline without numbers, its weights stored as a mode says."""
        if numbers not in self._stored:
            pipe = without_numbers(self._pipe)
            for _, part in parse_memory(numbers).parts if numbers else ():
                part.apply(pipe, self.backend)
            self._stored[numbers] = pipe
        return self._stored[numbers]

    def _rehearsed(self, decoders: str) -> list[Called]:
        """The calls of a request under modes of the decoder."""
        if decoders not in self._calls:
            pipe = without_numbers(self._pipe)
            for _, part in parse_memory(decoders).parts if decoders else ():
                part.apply(pipe, self.backend)
            self._calls[decoders] = rehearsed(pipe, self._call)
            if all(call.given is None for call in self._calls[decoders]):
                raise PlanError(f"{type(self._pipe).__name__} calls none of its transformers; {BY_HAND}")
        return self._calls[decoders]

    def _forward(self, name: str, storage: HistoryConfig) -> int:
        """What a forward computes with: the plan knows of modules that are alike only beside the cache of the first
        one's time, and the last forward that is computed finds it full."""
        return max(self._row(name, storage).activations, self._row(name, None).activations)

    def _row(self, name: str, storage: HistoryConfig | None) -> Row:
        """Under the method, or (None) uncached."""
        if (name, storage) not in self._rows:
            transformer = transformers_of(self._pipe)[name]
            given, branches = worst(self._rehearsed(""), name, self._pipe)
            spec = spec_for(transformer)
            steps = steps_of(self._pipe, self._call)
            setup = Setup(transformer, spec, given, self.method if storage else None, steps, branches)
            setup = replace(setup, storage=storage) if storage else setup
            self._rows[name, storage] = Planner(setup, heads=1).row(self._degrees)
        return self._rows[name, storage]


def steps_of(pipe: Any, call: Mapping[str, Any]) -> int:
    """How many ``pipe(**call)`` makes. Raises :class:`PlanError` where it does not say."""
    asked = signature(pipe.__call__).parameters.get("num_inference_steps")
    steps = call.get("num_inference_steps", asked and asked.default)
    if not isinstance(steps, int):
        raise PlanError(f"{type(pipe).__name__} does not say how many steps it makes: give num_inference_steps")
    return steps


def choose(
    needs: Needs, limits: Limits, given: Given = Given(), *, refused: Callable[[str], str | None] = lambda _: None
) -> Choice:
    """The first of :func:`ladder` that is within ``limits``.

    ``refused(memory)`` says why a mode does not go with the rest of a job (None: it does). Raises :class:`PlanError`
    with the numbers if nothing is, or for what cannot be planned.
    """
    held = dict[HistoryConfig, int]()

    def fits(storage: HistoryConfig) -> bool:
        if limits.cache is not None and storage not in held:
            held[storage] = needs.cache(storage)
        return limits.cache is None or held[storage] <= limits.cache

    histories = histories_for(needs, given)
    try:
        first = next(filter(fits, histories), None)
        if first is None:
            raise PlanError(f"nothing fits into {told(limits.cache or 0)} of cache memory: {_sizes(held)}; {MORE}")
        memory, storage, most = given.memory, first, None
        if limits.device is not None:
            memory, storage, most = _on_device(needs, limits.device, given.memory, histories, fits, refused)
    except PlanError as error:
        raise error if BY_HAND in str(error) else PlanError(f"{error}; or {BY_HAND}") from error
    kept, said = _kept(storage) if needs.method is not None else "", list[str]()
    if limits.cache is not None:
        said.append(f"cache memory {told(limits.cache)}: histories {kept} ({_sizes(held)})")
    if limits.device is not None:
        said.append(f"device memory {told(limits.device)}: {memory}{kept and f', histories {kept}'}: {most}")
    return Choice(memory, storage.dtype, storage.place, tuple(said))


def histories_for(needs: Needs, given: Given) -> list[HistoryConfig]:
    """How histories may be kept, the best first: as computed on the device, on the host (exact, slower); where that is
    the device, in 8 bits. On the device 8 bits are more than the host's none, so that they are not tried after it."""
    if needs.method is None:
        return [HistoryConfig()]
    places = [given.history_on] if given.history_on else ["device"] if on_host(needs.backend) else ["device", "host"]
    found = [HistoryConfig(given.history_dtype, place) for place in places]
    eight_bits = given.history_dtype is None and places == ["device"]
    return [*found, HistoryConfig(torch.int8)] if eight_bits else found


def _sizes(held: Mapping[HistoryConfig, int]) -> str:
    each = ", ".join(f"{_kept(storage)} {told(size)}" for storage, size in held.items())
    return f"they take of the device: {each}"


def _kept(storage: HistoryConfig) -> str:
    dtype = "as computed" if storage.dtype is None else "in 8 bits" if storage.scaled else f"in {storage.dtype}"
    return f"on the {storage.place} {dtype}"


class Rung(NamedTuple):
    """A memory mode and a way to keep histories; tried only where decoding alone was too much for the mode
    ``instead_of`` (None: always)."""

    memory: str
    storage: HistoryConfig
    instead_of: str | None = None


def ladder(memory: str | None, histories: Sequence[HistoryConfig]) -> Iterator[Rung]:
    """Memory modes with ways to keep histories, the best first; of ``memory`` alone, if it is given."""
    if memory is not None:
        yield from (Rung(memory, storage) for storage in histories)
        return
    for stored, places, decoder in product(STORED, PLACES, DECODERS):
        for storage, place in product(histories, places):
            whole = "+".join(filter(None, (place, stored)))
            yield Rung(f"{whole}+{decoder}", storage, whole) if decoder else Rung(whole, storage)


def _on_device(
    needs: Needs,
    limit: int,
    memory: str | None,
    histories: Sequence[HistoryConfig],
    fits: Callable[[HistoryConfig], bool],
    refused: Callable[[str], str | None],
) -> tuple[str, HistoryConfig, Need]:
    """The first rung that needs no more than ``limit``, and when it needs most."""
    tried, cannot, late = dict[str, Need](), dict[str, set[str]](), set[str | None]([None])
    for mode, storage, instead_of in ladder(memory, histories):
        if instead_of not in late or not fits(storage):
            continue
        if (reason := needs.lacking(mode) or refused(mode)) is not None:
            cannot.setdefault(reason, set()).add(mode.partition("+")[0])
            continue
        phases = needs.phases(mode, storage)
        most = max(phases, key=lambda need: need.total)
        if most.total <= limit:
            return mode, storage, most
        if all(need.decoding for need in phases if need.total > limit):
            late.add(mode)
        tried[mode] = min(tried.get(mode, most), most, key=lambda need: need.total)
    raise PlanError(f"nothing fits into {told(limit)} of device memory: {_numbers(tried, cannot)}; {MORE}")


def _numbers(tried: Mapping[str, Need], cannot: Mapping[str, set[str]]) -> str:
    """What every mode takes at least, of the smallest in parts; and which cannot be."""
    least = min(tried, key=lambda memory: tried[memory].total, default=None)
    each = [f"{memory} takes {told(need.total)}" for memory, need in tried.items() if memory != least]
    parts = [f"{least} takes {tried[least]}"] if least is not None else ["no mode is left"]
    return "; ".join([*each, *parts, *(f"{', '.join(sorted(which))}: {why}" for why, which in cannot.items())])
