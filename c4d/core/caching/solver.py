"""A solver of few computed steps: at which noise levels a run is computed, and how each output between is made.

Between computed steps the model's output is one linear combination of the last three computed outputs v1, v2, v3
(v3 of the last, at A), of the latents x of this step and of those x_A of the last computed one:

    v = (1 + c0) v3 + c1 (s/h1) (v3 - v2) + c2 s ((v3 - v2)/h1 - (v2 - v1)/h2) + c3 ((y - y_A)/s - v3) + c4 x

with y = g x and times tau of the model's kind (:mod:`c4d.core.caching.noise`), s = tau - tau_A, and h1, h2 between the
computed steps. c1 is a damped slope (half of it is a good one), c2 its change, c3 the mean of what was stepped with
since A. So the five coefficients have no unit, and those of a noise level hold on other grids of steps. A term whose
features are not there yet is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from c4d.core.caching.noise import Coordinate

FEATURES = 3  # computed outputs that a forecast is made of
Coefficients = tuple[float, float, float, float, float]
HALF_SLOPE: Coefficients = (0.0, 0.5, 0.0, 0.0, 0.0)


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


@dataclass(frozen=True)
class Plan:
    """``computed``: the noise levels of the computed steps, falling; ``between``: level -> coefficients, falling too.

    Raises ValueError unless both fall, and no level is in both.
    """

    computed: tuple[float, ...]
    between: tuple[tuple[float, Coefficients], ...] = field(default=())

    def __post_init__(self) -> None:
        levels = [level for level, _ in self.between]
        if not self.computed or list(self.computed) != sorted(set(self.computed), reverse=True):
            raise ValueError(f"the noise levels of the computed steps have to fall, got {list(self.computed)}")
        if levels != sorted(set(levels), reverse=True) or (levels and levels[0] >= self.computed[0]):
            raise ValueError("the noise levels between the computed steps have to fall, from below the first of those")
        if not all(len(c) == 5 and all(map(math.isfinite, c)) for _, c in self.between):
            raise ValueError("each step between computed ones has five finite coefficients")

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


def _between(points: Sequence[tuple[float, Coefficients]], place: float) -> Coefficients:
    """The coefficients at a place in a gap; before the first point and after the last theirs."""
    if not points:
        return HALF_SLOPE
    after = next((k for k, (p, _) in enumerate(points) if p > place), len(points))
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1]
    (p, low), (q, high) = points[after - 1], points[after]
    return _mixed(low, high, (place - p) / (q - p))


def _mixed(one: Coefficients, other: Coefficients, part: float) -> Coefficients:
    a, b, c, d, e = ((1.0 - part) * x + part * y for x, y in zip(one, other, strict=True))
    return a, b, c, d, e


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
    return Plan(tuple(computed), tuple(between))


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
