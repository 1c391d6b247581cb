"""Curves that were measured on a model: a value over the noise level, or over the place in a run."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from c4d.core.types import Step

UNCONDITIONAL = ("uncond", "pred_uncond", "1")  # what pipelines call that branch; its ordinal where they do not name it


@dataclass(frozen=True)
class Curve:
    """Of one branch of guidance on one expert; straight lines between its points, flat beyond.

    ``points``: (noise level or place, value), the first of each rising.
    """

    branch: str
    expert: int
    points: tuple[tuple[float, float], ...]

    def at(self, place: float) -> float:
        after = bisect_left(self.points, (place, -math.inf))
        if after in (0, len(self.points)):
            return self.points[min(after, len(self.points) - 1)][1]
        (left, low), (right, high) = self.points[after - 1], self.points[after]
        return low + (high - low) * (place - left) / (right - left)

    def steps(self) -> list[Step]:
        """Of a curve over the noise level: the steps of a run as it was measured, the noisiest first."""
        levels = tuple(level for level, _ in reversed(self.points))
        return [Step(i, len(levels), self.branch, self.expert, levels=levels) for i in range(len(levels))]

    def to_dict(self) -> dict[str, Any]:
        return {"branch": self.branch, "expert": self.expert, "points": [list(point) for point in self.points]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Curve:
        """Raises KeyError, TypeError or ValueError for anything but what :meth:`to_dict` gives."""
        points = tuple(sorted((float(place), float(value)) for place, value in found["points"]))
        if not points or not all(math.isfinite(x) for point in points for x in point):
            raise ValueError(f"the points of {found['branch']!r} are {found['points']!r}")
        return cls(str(found["branch"]), int(found["expert"]), points)


def of_ratios(
    cond: Sequence[float], uncond: Sequence[float] = (), experts: Iterable[int] = (0, 1)
) -> tuple[Curve, ...]:
    """Published ratios, one a step, as curves over the place in a run; a branch without its own has those of cond."""
    ratios = {"cond": cond, **(dict.fromkeys(UNCONDITIONAL, uncond) if uncond else {})}
    return tuple(over_run(branch, each, expert) for expert in experts for branch, each in ratios.items())


def over_run(branch: str, ratios: Sequence[float], expert: int = 0) -> Curve:
    """The cumulative logarithm of ``ratios``, one for each step to the one before it, over the place from 0 to 1."""
    total, points = 0.0, [(0.0, 0.0)]
    for i, ratio in enumerate(ratios[1:], 1):
        total += math.log(ratio)
        points.append((i / (len(ratios) - 1), total))
    return Curve(branch, expert, tuple(points))


def curve_of(curves: Iterable[Curve], branch: str, expert: int) -> Curve | None:
    """That of this branch, else another branch's on this expert; None where the expert has none."""
    mine = [curve for curve in curves if curve.expert == expert]
    return next((curve for curve in mine if curve.branch == branch), mine[0] if mine else None)
