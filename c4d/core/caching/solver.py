"""A solver of few computed steps: at which noise levels a run is computed, and how each output between is made.

Between computed steps the model's output is one linear combination of the last three computed outputs v1, v2, v3
(v3 of the last, at A), of the latents x of this step and of those x_A of the last computed one:

    v = (1 + c0) v3 + c1 (s/h1) (v3 - v2) + c2 s ((v3 - v2)/h1 - (v2 - v1)/h2) + c3 ((y - y_A)/s - v3) + c4 x

with y = g x and times tau of the model's kind (:mod:`c4d.core.caching.noise`), s = tau - tau_A, and h1, h2 between the
computed steps. c1 is a damped slope (half of it is a good one), c2 its change, c3 the mean of what was stepped with
since A. So the five coefficients have no unit, and those of a noise level hold on other grids of steps. A term whose
features are not there yet is left out.

A computed output v4 tells how wrong the forecasts before it were. What it hands on can repair that:

    v = v4 + h3/d (c0 v4 + c1 (v4 - v3) + c2 (v3 - v2) + c3 (v2 - v1) + c4 ((y - y_B)/h3 - v4) + c5 x)

h3 is the time since B, the computed step before, and d that to the next step: an error that has grown over h3 is taken
back within d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar, cast

from c4d.core.caching.noise import Coordinate

AHEAD = 3  # computed outputs that a forecast is made of
FEATURES = AHEAD + 1  # and a correction, with that of its own step
Coefficients = tuple[float, float, float, float, float]
Correction = tuple[float, float, float, float, float, float]
Numbers = TypeVar("Numbers", bound="tuple[float, ...]")
HALF_SLOPE: Coefficients = (0.0, 0.5, 0.0, 0.0, 0.0)
NO_CORRECTION: Correction = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def weights_of(c: Sequence[float], levels: Sequence[float], level: float, coordinate: Coordinate) -> list[float]:
    """The weights of the outputs computed at ``levels`` (oldest first), of the latents now, and of those at the last.

    ``level`` is the noise level now. The last two weights are those of the latents.
    """
    times = [coordinate.tau(n) for n in levels]
    s = coordinate.tau(level) - times[-1]
    w = [0.0] * len(levels)
    w[-1] = 1.0 + c[0]
    if len(levels) > 1:
        slope = s / (times[-1] - times[-2])
        w[-1] += c[1] * slope
        w[-2] -= c[1] * slope
        if len(levels) > 2:
            before = s / (times[-2] - times[-3])
            w[-1] += c[2] * slope
            w[-2] -= c[2] * (slope + before)
            w[-3] += c[2] * before
    w[-1] -= c[3]
    now, then = coordinate.scale(level), coordinate.scale(levels[-1])
    return [*w, c[3] * now / s + c[4], -c[3] * then / s]


def coefficients_of(w: Sequence[float], levels: Sequence[float], level: float, coordinate: Coordinate) -> Coefficients:
    """What :func:`weights_of` makes these weights of; exact, for the one is a linear map of the other."""
    times = [coordinate.tau(n) for n in levels]
    s = coordinate.tau(level) - times[-1]
    *features, x, last = w
    c3 = -last * s / coordinate.scale(levels[-1])
    c4 = x - c3 * coordinate.scale(level) / s
    c1 = c2 = slope = 0.0
    if len(levels) > 1:
        slope = s / (times[-1] - times[-2])
        if len(levels) > 2:
            before = s / (times[-2] - times[-3])
            c2 = features[-3] / before
            c1 = -(features[-2] + c2 * (slope + before)) / slope
        else:
            c1 = -features[-2] / slope
    return features[-1] - 1.0 - (c1 + c2) * slope + c3, c1, c2, c3, c4


def corrected_weights(c: Sequence[float], levels: Sequence[float], after: float, coordinate: Coordinate) -> list[float]:
    """The weights of the outputs computed at ``levels`` (oldest first, at least two, the last is this step's), of the
    latents now, and of those at the computed step before.

    ``after`` is the noise level of the next step. Raises ZeroDivisionError if it is that of this one.
    """
    now, before = coordinate.tau(levels[-1]), coordinate.tau(levels[-2])
    h = now - before
    part = h / (coordinate.tau(after) - now)
    w = [0.0] * len(levels)
    for k in range(1, min(FEATURES, len(levels))):
        w[-k] += part * c[k]
        w[-k - 1] -= part * c[k]
    w[-1] += 1.0 + part * (c[0] - c[4])
    here, there = coordinate.scale(levels[-1]), coordinate.scale(levels[-2])
    return [*w, part * (c[4] * here / h + c[5]), -part * c[4] * there / h]


def correction_of(w: Sequence[float], levels: Sequence[float], after: float, coordinate: Coordinate) -> Correction:
    """What :func:`corrected_weights` makes these weights of."""
    now, before = coordinate.tau(levels[-1]), coordinate.tau(levels[-2])
    h = now - before
    part = h / (coordinate.tau(after) - now)
    *outputs, x, last = (each / part for each in w)
    c4 = -last * h / coordinate.scale(levels[-2])
    c5 = x - c4 * coordinate.scale(levels[-1]) / h
    slopes = [0.0] * (FEATURES - 1)  # the change to each output is what stands before it and all those before it
    for k in range(len(outputs) - 1, 0, -1):
        slopes[k - 1] = -sum(outputs[: len(outputs) - k])
    return outputs[-1] - 1.0 / part + c4 - slopes[0], slopes[0], slopes[1], slopes[2], c4, c5


@dataclass(frozen=True)
class Plan:
    """``computed``: the noise levels of the computed steps, falling; ``between``: level -> coefficients, falling too;
    ``corrected``: level -> correction, of some of ``computed``.

    Raises ValueError unless the first two fall, no level is in both, and ``corrected`` has later ones of ``computed``.
    """

    computed: tuple[float, ...]
    between: tuple[tuple[float, Coefficients], ...] = field(default=())
    corrected: tuple[tuple[float, Correction], ...] = field(default=())

    def __post_init__(self) -> None:
        levels = [level for level, _ in self.between]
        if not self.computed or list(self.computed) != sorted(set(self.computed), reverse=True):
            raise ValueError(f"the noise levels of the computed steps have to fall, got {list(self.computed)}")
        if levels != sorted(set(levels), reverse=True) or (levels and levels[0] >= self.computed[0]):
            raise ValueError("the noise levels between the computed steps have to fall, from below the first of those")
        if not all(len(c) == 5 and all(map(math.isfinite, c)) for _, c in self.between):
            raise ValueError("each step between computed ones has five finite coefficients")
        if not {level for level, _ in self.corrected} <= {*self.computed[1:]}:
            raise ValueError("only computed steps can be corrected, and not the first of them")
        if not all(len(c) == 6 and all(map(math.isfinite, c)) for _, c in self.corrected):
            raise ValueError("each corrected step has six finite coefficients")

    @cached_property
    def gaps(self) -> tuple[tuple[tuple[float, Coefficients], ...], ...]:
        """After each computed step: (place in the gap, coefficients) of the steps between it and the next, rising."""
        ends = [*self.computed[1:], 0.0]
        return tuple(
            tuple(((start - n) / (start - end), c) for n, c in self.between if end < n < start)
            for start, end in zip(self.computed, ends, strict=True)
        )

    def steps(self, levels: Sequence[float]) -> frozenset[int]:
        """Which steps of a run with these noise levels (falling) are computed: for each of the plan the nearest.

        The first step is always computed. Of a run that begins at less noise, the plan's levels above are left out.
        """
        chosen = {0}
        inside = [n for n in self.computed if n <= levels[0]] if levels[0] < self.computed[0] else self.computed[1:]
        for n in inside:
            free = [k for k in range(len(levels)) if k not in chosen]
            if free:
                chosen.add(min(free, key=lambda k: abs(levels[k] - n)))
        return frozenset(chosen)

    def coefficients(self, last: float, level: float) -> Coefficients:
        """Those at noise ``level``, after a step computed at ``last``: linear between those of the plan's gap."""
        gap = min(range(len(self.computed)), key=lambda j: abs(self.computed[j] - last))
        start = self.computed[gap]
        end = self.computed[gap + 1] if gap + 1 < len(self.computed) else 0.0
        return _between(self.gaps[gap], (start - level) / (start - end))

    def correction(self, level: float) -> Correction | None:
        """That of the plan's computed step nearest to ``level``; None if it hands on its output as it is."""
        return dict(self.corrected).get(min(self.computed, key=lambda n: abs(n - level)))


def _between(points: Sequence[tuple[float, Coefficients]], place: float) -> Coefficients:
    """The coefficients at a place in a gap; before the first point and after the last theirs."""
    if not points:
        return HALF_SLOPE
    after = next((k for k, (p, _) in enumerate(points) if p > place), len(points))
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1]
    (p, low), (q, high) = points[after - 1], points[after]
    return _mixed(low, high, (place - p) / (q - p))


def _mixed(one: Numbers, other: Numbers, part: float) -> Numbers:
    return cast(Numbers, tuple((1.0 - part) * x + part * y for x, y in zip(one, other, strict=True)))


def blended(less: Plan, more: Plan, count: int) -> Plan:
    """A plan of ``count`` computed steps between those of two others: quantiles of both schedules, mixed by count.

    A gap takes the coefficients of the two gaps that lie where it lies, counted from the first to the last.
    """
    few, many = len(less.computed), len(more.computed)
    part = (count - few) / (many - few)
    places = [j / max(1, count - 1) for j in range(count)]
    computed = [(1 - part) * quantile(less.computed, q) + part * quantile(more.computed, q) for q in places]
    between: list[tuple[float, Coefficients]] = []
    for j, (start, end) in enumerate(zip(computed, [*computed[1:], 0.0], strict=True)):
        low, high = less.gaps[_near(j, count, few)], more.gaps[_near(j, count, many)]
        for place in sorted({p for p, _ in (*low, *high)}):
            level = start - place * (start - end)
            if end < level < start:
                between.append((level, _mixed(_between(low, place), _between(high, place), part)))
    corrected = []
    for level, q in zip(computed[1:], places[1:], strict=True):
        found = [plan.correction(plan.computed[round(q * (len(plan.computed) - 1))]) for plan in (less, more)]
        if any(found):
            low_c, high_c = (each or NO_CORRECTION for each in found)
            corrected.append((level, _mixed(low_c, high_c, part)))
    return Plan(tuple(computed), tuple(between), tuple(corrected))


def quantile(values: Sequence[float], q: float) -> float:
    """What stands at the part ``q`` of their number, from 0 to 1; linear between them."""
    if len(values) == 1:
        return values[0]
    place = q * (len(values) - 1)
    low = min(int(place), len(values) - 2)
    return values[low] + (place - low) * (values[low + 1] - values[low])


def _near(gap: int, count: int, other: int) -> int:
    """The gap of a plan of ``other`` computed steps that lies where the ``gap``-th of ``count`` lies."""
    return min(other - 1, max(0, round((gap + 0.5) / count * other - 0.5)))
