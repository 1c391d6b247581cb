"""Paired differences with their uncertainty, and the choice of what a case is compared with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    """a - b over the same clips, resampled by clip; the same input gives the same interval."""
    difference = np.subtract(a, b)
    if difference.ndim != 1 or not len(difference):
        raise ValueError(f"{np.shape(a)} and {np.shape(b)} values; allowed are two rows of equal length")
    picks = np.random.default_rng(SEED).integers(0, len(difference), (DRAWS, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(difference.mean()), float(low), float(high))


def equal_cost(cost: float, plain: Mapping[int, float]) -> int | None:
    """The fewest plain steps that cost at least as much, which favours them; None if even the most cost less."""
    enough = [steps for steps, price in plain.items() if price >= cost - 1e-6]
    return min(enough, key=lambda steps: plain[steps], default=None)


def best(scores: Iterable[tuple[str, float, float]], budget: float) -> str | None:
    """Of (name, cost, score) the name with the highest score that costs no more than the budget."""
    within = [(score, name) for name, cost, score in scores if cost <= budget + 1e-6]
    return max(within)[1] if within else None
