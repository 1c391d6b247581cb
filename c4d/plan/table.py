"""Every legal division of some devices: memory of a rank, bytes that it sends, and a predicted time."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import c4d
from c4d.core.types import Signal
from c4d.parallel.degrees import Degrees, SequenceParallel, possible
from c4d.plan.ranks import MOVED, STILL
from c4d.plan.run import PlanError, Run, Setup, run
from c4d.plan.shapes import Shapes, Work
from c4d.plan.traffic import KINDS, RING, ULYSSES

MOST = 1024  # devices


@dataclass(frozen=True)
class Speeds:
    """Of a device: ``tflops`` that a forward reaches, and GB/s that it sends to others of its ``node`` and ``across``.

    ``source`` in words: who says so.
    """

    tflops: float
    bandwidth: float
    across: float
    node: int = 8
    source: str = "given"


@dataclass(frozen=True)
class Row:
    """A division of devices. Bytes are those of one rank, ``on_device`` what its cache does not keep on the host;
    ``sent`` is the mean of a step, by kind.

    ``seconds`` of all steps, if every step computes what it may and if it reuses what it may; one number twice for a
    method that measures nothing, none without speeds.
    """

    degrees: Degrees
    weights: int
    others: int
    cache: int
    on_device: int
    activations: int
    sent: dict[str, int]
    flops: int
    seconds: tuple[float, float] | None
    place: str = "device"

    @property
    def memory(self) -> int:
        """On the device."""
        return self.weights + self.others + self.activations + self.on_device

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return {**asdict(self), "degrees": self.degrees._asdict(), "devices": self.degrees.world, "memory": self.memory}


class Planner:
    """The divisions of one :class:`Setup`; ``heads`` is the fewest that an attention has."""

    def __init__(self, setup: Setup, heads: int, *, others: int = 0) -> None:
        self.setup, self.heads, self._others = setup, heads, others
        self.weights = sum(p.nbytes for p in (*setup.transformer.parameters(), *setup.transformer.buffers()))
        self._runs: dict[tuple[int, bool, float], Run] = {}
        method = setup.method
        self.guided = method is not None and method.guidance is not None
        measured = method is not None and any(isinstance(signal, Signal) for signal in method.signals)
        self.changes = (MOVED, STILL) if measured else (STILL,)

    def run(self, ranks: int = 1, apart: bool = False, change: float = STILL) -> Run:
        key = (ranks, apart, change)
        if key not in self._runs:
            self._runs[key] = run(self.setup, ranks, change=change, apart=apart)
        return self._runs[key]

    @property
    def tokens(self) -> int:
        """That are spread over ranks; 0 if the model's cannot be."""
        return self.run(change=self.changes[0]).tokens

    def rows(self, world: int, how: SequenceParallel, speeds: Speeds | None) -> list[Row]:
        """Those of one request that ``how`` leaves open, the fastest first. Raises :class:`PlanError` if there are
        none."""
        refusal = self._refusal(world)
        able = [] if refusal else self._able(world)
        fits = [d for d in able if all(getattr(how, n) in (None, getattr(d, n)) for n in Degrees._fields)]
        if not fits:
            raise PlanError(refusal or self._unfit(world, how))
        rows = [self.row(d, speeds) for d in fits]
        return sorted(rows, key=order)

    def remark(self, world: int) -> str | None:
        """What is to be said of so many devices: heads that do not divide, and ranks without a token."""
        able = self._able(world)
        if world > 1 and self.heads % world and any(d.ulysses == world for d in able):
            fit = " or ".join(str(n) for n in self._near(world))
            more = -self.heads % world
            return (
                f"{self.heads} heads do not divide by {world}: ulysses {world} fills them up with {more} of zeros; "
                f"{fit} divide them, and ring {world} needs no heads"
            )
        if self.tokens and any(d.sequence > 1 and self._idle(d) for d in able):
            return f"{self.tokens} tokens do not go round: some ranks have none"
        if self.heads < world and able:
            return f"ulysses {world} is more than the {self.heads} heads: the rest is ring, or cfg"
        return None

    def _near(self, world: int) -> list[int]:
        """The next numbers below and above that divide the heads."""
        divisors = [n for n in range(1, self.heads + 1) if self.heads % n == 0]
        return [max(n for n in divisors if n < world), *[n for n in divisors if n > world][:1]]

    def _idle(self, d: Degrees) -> bool:
        return (d.sequence - 1) * -(-self.tokens // d.sequence) >= self.tokens

    def _able(self, world: int) -> list[Degrees]:
        branches = 1 if self.guided else self.setup.branches
        able = [d for d in possible(world, self.heads, branches) if d.data == 1]
        return able if self.tokens else [d for d in able if d.sequence == 1]

    def _refusal(self, world: int) -> str | None:
        if not 1 <= world <= MOST:
            return f"devices is {world}; allowed are whole numbers from 1 to {MOST}"
        if self._able(world):
            return None
        alone = "1 or 2 (cfg 2)" if self.setup.branches == 2 and not self.guided else "1"
        return (
            f"{self.setup.spec.transformer} cannot be spread over {world} devices: its spec does not say how "
            f"(docs/adding_a_model.md); use {alone}, or one for each prompt"
        )

    def _unfit(self, world: int, how: SequenceParallel) -> str:
        try:
            how.degrees(world, node=world, heads=self.heads, branches=1 if self.guided else self.setup.branches)
        except ValueError as error:
            return str(error)
        raise AssertionError("what fits was left out")

    def row(self, d: Degrees, speeds: Speeds | None = None) -> Row:
        """That of a legal division."""
        apart = d.cfg > 1
        runs = [self.run(apart=apart, change=change) for change in self.changes]
        totals = [self._total(d, one, change) for one, change in zip(runs, self.changes, strict=True)]
        seconds = None
        if speeds is not None:
            found = [_seconds(d, flops, sent, speeds) for flops, sent in totals]
            seconds = found[0], found[-1]
        flops, sent = totals[0]
        steps = self.setup.steps
        return Row(
            degrees=d,
            weights=self.weights,
            others=self._others,
            cache=max(self._share(d, "cache", apart, change) for change in self.changes),
            on_device=max(self._share(d, "on_device", apart, change) for change in self.changes),
            activations=max(self._share(d, "activations", apart, change) for change in self.changes),
            sent={kind: round(sent[kind] / steps) for kind in KINDS if sent[kind]},
            flops=flops // steps,
            seconds=seconds,
            place=self.setup.storage.place,
        )

    def _total(self, d: Degrees, one: Run, change: float) -> tuple[int, Counter[str]]:
        """FLOPs and bytes sent of all forwards."""
        sent, flops = Counter[str](), self._share(d, "flops", d.cfg > 1, change)
        for each, often in Counter(each for passed in one.forwards for each in passed.told).items():
            flops += often * each.flops(d)
            for kind, size in each.bytes(d).items():
                sent[kind] += often * size
        return flops, sent

    def _share(self, d: Degrees, what: str, apart: bool, change: float) -> int:
        """Of a rank. Whatever it is grows by the same with every token that the rank has, which two runs tell."""
        first = self.run(1, apart, change)
        if d.sequence == 1:
            return _of(first, what)
        second, n = self.run(2, apart, change), -(-self.tokens // d.sequence)
        one, two, half = _of(first, what), _of(second, what), -(-self.tokens // 2)
        if half == self.tokens:
            return two
        found = one + Fraction(two - one) * (n - self.tokens) / (half - self.tokens)
        if what in ("cache", "on_device") and found.denominator > 1:  # not so: some of it is of part of the tokens
            return _of(self.run(d.sequence, apart, change), what)
        return round(found)


def order(row: Row) -> tuple[float, int]:
    """The fastest first; without speeds, the one that computes and sends least."""
    return row.seconds[0] if row.seconds else float(row.flops), sum(row.sent.values())


def _of(one: Run, what: str) -> int:
    return sum(passed.flops for passed in one.forwards) if what == "flops" else int(getattr(one, what))


def _seconds(d: Degrees, flops: int, sent: Counter[str], speeds: Speeds) -> float:
    """Computing and sending one after the other; each exchange at the speed of the slowest link of its group."""
    inner = d.ulysses <= speeds.node
    whole = d.request <= speeds.node
    time = flops / (speeds.tflops * 1e12)
    for kind, size in sent.items():
        within = inner if kind == ULYSSES else (d.sequence <= speeds.node if kind == RING else whole)
        time += size / ((speeds.bandwidth if within else speeds.across) * 1e9)
    return time


def fewest_heads(setup: Setup) -> int:
    """Of an attention of the transformer."""
    session = c4d.attention(setup.transformer, backend=Shapes(Work()), spec=setup.spec)
    session.unused = None  # it is only asked
    return session.heads
