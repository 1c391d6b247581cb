"""MagCache's curve, arXiv 2506.09045: how the length of the blocks' residual grows from step to step.

    L(s) = sum_{i <= s} log g_i,   g_i = mean over tokens of |r(i)| / |r(i-1)|

g is averaged over the samplings before the logarithm is taken. L is kept over the noise level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from c4d.calibrate.calibration import Calibration, Fitted, Record, calibration
from c4d.calibrate.curves import Points, averaged, fitted
from c4d.calibrate.recording import Row
from c4d.core.caching.curves import Curve


def growth(rows: Sequence[Row]) -> Points:
    """That of each step; a step that is no number says nothing, and the first has grown by nothing."""
    told = [(row["level"], 1.0 if row["begins"] else row["growth"]) for row in rows]
    return [(level, value) for level, value in told if value is not None and value > 0.0]


def summed(curve: Curve) -> Curve:
    """Of growth, from the noise down, its cumulative logarithm."""
    total, points = 0.0, []
    for level, value in reversed(curve.points):
        total += math.log(value)
        points.append((level, total))
    return Curve(curve.branch, curve.expert, tuple(reversed(points)))


class MagCache(Calibration):
    noise: ClassVar[bool] = True

    def fit(self, records: Sequence[Record]) -> Fitted:
        return fitted([summed(curve) for curve in averaged(records, growth)], records, "growth")

    def use(self, fitted: Fitted) -> str:
        return "threshold=0.12,max_skips=3"


@calibration("magcache")
def magcache() -> Calibration:
    """Curves over the noise level of how long the blocks' residual is, for each branch of guidance and each expert."""
    return MagCache()
