"""Policies: when a step is computed. Pure functions of explicit state; a fresh state always computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from c4d.core.types import Action, Measured, Policy, RelativeL1, Scale, Signal, Step, Wrapper

COMPUTE, REUSE = Action.COMPUTE, Action.REUSE


def whole_number(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def never_small(what: str, least: float | None, enough: str) -> str:
    if least is None:
        return f"no {what} could be measured"
    return f"the smallest {what} was {least:.3g}, never {enough}"


@dataclass(frozen=True)
class Interval(Policy["int | None"]):
    """Every ``interval``-th step after ``warmup`` computed ones: {0..E-1} and {E-1+N, E-1+2N, ...}.

    The schedule of TaylorSeer and of its family (fresh_threshold N, first_enhance E). They do not force the last
    steps; ``last`` of them are computed too.
    """

    interval: int
    warmup: int = 1
    last: int = 0

    def __post_init__(self) -> None:
        whole_number("interval", self.interval, 1)
        whole_number("warmup", self.warmup, 1)
        whole_number("last", self.last, 0)

    def init(self) -> int | None:
        return None  # the index of the last computed step

    def decide(self, before: int | None, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, int | None]:
        forced = step.index < self.warmup or step.index >= step.total - self.last
        if before is None or forced or step.index - before >= self.interval:
            return COMPUTE, step.index
        return REUSE, before

    def idle(self, total: int, measured: Measured) -> str:
        if self.interval == 1:
            return "interval=1 computes every step"
        last = f", last={self.last} the last {self.last}" if self.last else ""
        return f"warmup={self.warmup} computes the first {self.warmup} steps{last}, and the run has {total}"


@dataclass(frozen=True)
class StepMask(Policy[bool]):
    """A fixed schedule: ``computed`` lists the step indices that are computed; step 0 must be among them.

    ``made_for``: of how many steps the run has to be; None takes any.
    """

    computed: frozenset[int]
    made_for: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "computed", frozenset(self.computed))
        for index in self.computed:
            whole_number("a computed step", index, 0)
        if 0 not in self.computed:
            raise ValueError(f"step 0 must be computed, got {sorted(self.computed)}")

    @property
    def steps(self) -> int | None:
        return self.made_for

    def init(self) -> bool:
        return False  # whether anything was computed yet

    def decide(self, started: bool, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, bool]:
        if self.steps not in (None, step.total):
            raise ValueError(
                f"this schedule is made for {self.steps} steps, and the run has {step.total}: let it have as many, or "
                "list the computed ones of your own (schedule:computed=…)"
            )
        return (REUSE if started and step.index not in self.computed else COMPUTE), True

    def idle(self, total: int, measured: Measured) -> str:
        return f"all {total} steps of the run are listed as computed"

    def remark(self, total: int) -> str | None:
        beyond = sorted(index for index in self.computed if index >= total)
        listed = ", ".join(map(str, beyond))
        return (
            f"listed as computed, but beyond this run of {total} steps (0 to {total - 1}): {listed}" if beyond else None
        )


@dataclass(frozen=True)
class Accumulate(Policy["float | None"]):
    """Reuse while the accumulated, rescaled relative change of ``signal`` stays below ``threshold`` (TeaCache).

    acc += poly(ratio), the polynomial's highest power first; acc < threshold reuses, otherwise compute and acc = 0
    (arXiv 2411.19108, eq. 7). Several published fits are negative in places, which would let the sum shrink without
    end: ``clamped``, a negative value counts as 0, and a ratio beyond the first root at which the polynomial falls
    below 0 is computed, for nothing was fitted there. ``within``: the ratios that the polynomial was fitted to, where
    they are known; a smaller one counts as the smallest, and one beyond the greatest is computed.
    """

    threshold: float
    signal: Signal
    coefficients: tuple[float, ...] = (1.0, 0.0)
    clamped: bool = True
    within: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        positive("threshold", self.threshold)
        if not self.coefficients or not all(math.isfinite(c) for c in self.coefficients):
            raise ValueError(f"coefficients must be finite numbers, highest power first, got {self.coefficients!r}")

    @property
    def signals(self) -> frozenset[Signal]:
        return frozenset({self.signal})

    def change(self, seen: Mapping[Signal, RelativeL1]) -> float | None:
        """Of what was seen, that which is rescaled and added up; None if it was not seen."""
        return seen[self.signal].ratio if self.signal in seen else None

    def init(self) -> float | None:
        return None  # the accumulated change since the last computed step

    @property
    def scale(self) -> Scale:
        return Scale(f"accumulated change of {self.signal.value}", self.threshold)

    def weigh(self, acc: float | None, step: Step, seen: Mapping[Signal, RelativeL1]) -> float | None:
        change = self.change(seen)
        return None if acc is None or change is None else acc + self._rescaled(change)

    def decide(self, acc: float | None, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, float | None]:
        acc = self.weigh(acc, step, seen)
        return (REUSE, acc) if acc is not None and acc < self.threshold else (COMPUTE, 0.0)

    def idle(self, total: int, measured: Measured) -> str:
        ratios = [change for _, seen in measured if (change := self.change(seen)) is not None]
        if ratios and min(ratios) > self.limit:
            return f"every change of {self.signal.value} was beyond {self.limit:.3g}, where the fit ends"
        least = min(map(self._rescaled, ratios), default=None)
        return never_small(f"rescaled change of {self.signal.value}", least, f"below the threshold {self.threshold:g}")

    @cached_property
    def limit(self) -> float:
        """The ratio at which the fit ends; where that is not known, at which the polynomial, once positive, first falls
        below 0 (infinity if it does not before 4)."""
        if self.within is not None:
            return self.within[1]
        if not self.clamped:
            return math.inf
        ratios = [i / 1000 for i in range(4001)]
        rises = next((r for r in ratios if self._polynomial(r) > 0.0), math.inf)
        return next((r for r in ratios if r > rises and self._polynomial(r) < 0.0), math.inf)

    def _rescaled(self, ratio: float) -> float:
        if ratio > self.limit:
            return math.inf
        if self.within is not None:
            ratio = max(ratio, self.within[0])
        return max(0.0, self._polynomial(ratio)) if self.clamped else self._polynomial(ratio)

    def _polynomial(self, ratio: float) -> float:
        value = 0.0
        for c in self.coefficients:
            value = value * ratio + c
        return value


@dataclass(frozen=True)
class Threshold(Policy[bool]):
    """Reuse while the relative change of ``signal`` since the last computed step is at most ``threshold``."""

    threshold: float
    signal: Signal = Signal.FIRST_BLOCKS

    def __post_init__(self) -> None:
        positive("threshold", self.threshold)

    @property
    def signals(self) -> frozenset[Signal]:
        return frozenset({self.signal})

    def init(self) -> bool:
        return False  # whether anything was computed yet

    @property
    def scale(self) -> Scale:
        return Scale(f"change of {self.signal.value}", self.threshold)

    def weigh(self, started: bool, step: Step, seen: Mapping[Signal, RelativeL1]) -> float | None:
        return seen[self.signal].ratio if started and self.signal in seen else None

    def decide(self, started: bool, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, bool]:
        change = self.weigh(started, step, seen)
        return (REUSE if change is not None and change <= self.threshold else COMPUTE), True

    def idle(self, total: int, measured: Measured) -> str:
        least = min((seen[self.signal].ratio for _, seen in measured if self.signal in seen), default=None)
        return never_small(f"change of {self.signal.value}", least, f"at most the threshold {self.threshold:g}")


@dataclass(frozen=True)
class Bounded(Wrapper[tuple[Any, int, int]]):
    """Limits on another policy: the ``first`` and ``last`` steps are computed, and those that ``always`` lists; never
    more than ``max_skips`` steps in a row are reused, and ``max_reused`` in all (``None``: no limit). A forced step
    restarts the inner policy."""

    inner: Policy[Any]
    first: int = 1
    last: int = 1
    max_skips: int | None = None
    max_reused: int | None = None
    always: StepMask | None = None

    def __post_init__(self) -> None:
        whole_number("first", self.first, 1)
        whole_number("last", self.last, 0)
        for name, most, least in (("max_skips", self.max_skips, 1), ("max_reused", self.max_reused, 0)):
            if most is not None:
                whole_number(name, most, least)

    @property
    def steps(self) -> int | None:
        return self.inner.steps if self.always is None else self.always.steps

    def init(self) -> tuple[Any, int, int]:
        return self.inner.init(), 0, 0  # and how many were reused in a row, and in all

    def decide(
        self, state: tuple[Any, int, int], step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> tuple[Action, tuple[Any, int, int]]:
        action, inner = self.inner.decide(self._within(state, step), step, seen)
        _, skipped, reused = state
        return action, (inner, skipped + 1, reused + 1) if action is REUSE else (inner, 0, reused)

    def weigh(self, state: tuple[Any, int, int], step: Step, seen: Mapping[Signal, RelativeL1]) -> float | None:
        return self.inner.weigh(self._within(state, step), step, seen)

    def _within(self, state: tuple[Any, int, int], step: Step) -> Any:
        """The inner policy's state: a fresh one where the limits force a step to be computed."""
        inner, skipped, reused = state
        listed = self.always is not None and self.always.decide(True, step, {})[0] is COMPUTE
        edge = step.index < self.first or step.index >= step.total - self.last
        over = (self.max_skips, skipped), (self.max_reused, reused)
        enough = any(most is not None and count >= most for most, count in over)
        return self.inner.init() if listed or edge or enough else inner

    def idle(self, total: int, measured: Measured) -> str:
        if self.first + self.last >= total:
            return f"the first {self.first} and last {self.last} steps are always computed, and the run has {total}"
        free = [(step, seen) for step, seen in measured if self.first <= step.index < step.total - self.last]
        return self.inner.idle(total, free)


@dataclass(frozen=True)
class Partly(Wrapper[tuple[Any, int]]):
    """``inner``, whose reused steps are partial: of those in a row the first, and each ``every``-th after it."""

    inner: Policy[Any]
    every: int = 1

    def __post_init__(self) -> None:
        whole_number("every", self.every, 1)

    def init(self) -> tuple[Any, int]:
        return self.inner.init(), 0  # and how many steps were not computed in a row

    def decide(
        self, state: tuple[Any, int], step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> tuple[Action, tuple[Any, int]]:
        action, inner = self.inner.decide(state[0], step, seen)
        if action is not REUSE:
            return action, (inner, 0)
        return (REUSE if state[1] % self.every else Action.PARTIAL), (inner, state[1] + 1)

    def weigh(self, state: tuple[Any, int], step: Step, seen: Mapping[Signal, RelativeL1]) -> float | None:
        return self.inner.weigh(state[0], step, seen)


@dataclass(frozen=True)
class MadeFor(Wrapper[Any]):
    """``inner``, calibrated for one transformer (``model``, its signature) and refused on another."""

    inner: Policy[Any]
    model: Mapping[str, Any]

    @property
    def calibrated_for(self) -> Mapping[str, Any]:
        return self.model

    def init(self) -> Any:
        return self.inner.init()

    def decide(self, state: Any, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, Any]:
        return self.inner.decide(state, step, seen)

    def weigh(self, state: Any, step: Step, seen: Mapping[Signal, RelativeL1]) -> float | None:
        return self.inner.weigh(state, step, seen)
