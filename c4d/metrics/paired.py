"""Paired differences with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS, LEVEL, SEED = 10_000, 0.95, 0


class Difference(NamedTuple):
    """A mean paired difference and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """a - b over the same clips, resampled by clip; the same input gives the same interval.

    Raises ValueError for none, and for unequal counts.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{np.shape(a)} and {np.shape(b)} values; allowed are two rows of equal length")
    difference = np.subtract(a, b)
    picks = np.random.default_rng(SEED).integers(0, len(difference), (DRAWS, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(difference.mean()), float(low), float(high))
