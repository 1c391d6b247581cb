"""Forecasters: the paper's recursion run on one-hot vectors gives the weight of each stored feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = list[float]


def _one_hot(k: int) -> list[Vector]:
    return [[1.0 if i == j else 0.0 for j in range(k)] for i in range(k)]


def _slope(new: Vector, old: Vector, gap: float) -> Vector:
    return [(a - b) / gap for a, b in zip(new, old, strict=True)]


def _combine(terms: Sequence[tuple[float, Vector]]) -> Vector:
    return [math.fsum(c * v[j] for c, v in terms) for j in range(len(terms[0][1]))]


@dataclass(frozen=True)
class _Ordered:
    """A forecaster of some order keeps one feature more."""

    order: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool) or not 0 <= self.order <= 8:
            raise ValueError(f"order must be a whole number from 0 to 8, got {self.order!r}")

    @property
    def history(self) -> int:
        return self.order + 1


def backward_differences(features: Sequence[Vector], times: Sequence[float]) -> list[Vector]:
    """TaylorSeer's ladder D_0 .. D_m at the newest of m+1 features (oldest first).

    When a feature arrives, D_{i+1} = (D_i - D_i of the previous full step) / h with h the newest gap, whatever the
    order (arXiv 2503.06923, eq. 3): over uneven times these are not divided differences, which is what ``Newton`` uses.
    """
    ladder = [features[0]]
    for n in range(1, len(features)):
        gap, new = times[n] - times[n - 1], [features[n]]
        for previous in ladder:
            new.append(_slope(new[-1], previous, gap))
        ladder = new
    return ladder


@dataclass(frozen=True)
class Hold:
    """The last computed feature, as it was (FORA, TeaCache, First-Block Cache)."""

    @property
    def history(self) -> int:
        return 1

    def weights(self, times: Sequence[float], t: float) -> Vector:
        return [0.0] * (len(times) - 1) + [1.0]


@dataclass(frozen=True)
class Taylor(_Ordered):
    """TaylorSeer: sum_i D_i (t - t_last)^i / i! over the ladder of backward differences (arXiv 2503.06923, eq. 4).

    ``start`` is the published warm-up guard: features from before this time take no part in differences, so that
    with E warm-up steps and ``start`` = E - 2 order 1 first appears at step E - 1 and order 2 one full step later.
    """

    start: float = -math.inf

    def weights(self, times: Sequence[float], t: float) -> Vector:
        used = [i for i, time in enumerate(times) if time >= self.start] or [len(times) - 1]
        one_hot = _one_hot(len(times))
        ladder = backward_differences([one_hot[i] for i in used], [times[i] for i in used])
        x = t - times[-1]
        return _combine([(x**i / math.factorial(i), d) for i, d in enumerate(ladder)])


@dataclass(frozen=True)
class Newton(_Ordered):
    """Newton's interpolation through the stored features: exact on polynomials of its order over uneven times.

    It amplifies noise more than ``Taylor``, which is why no method defaults to it.
    """

    def weights(self, times: Sequence[float], t: float) -> Vector:
        newest = list(times)[::-1]
        column = _one_hot(len(times))[::-1]
        terms, product = [(1.0, column[0])], 1.0
        for k in range(1, len(newest)):
            column = [_slope(column[i], column[i + 1], newest[i] - newest[i + k]) for i in range(len(column) - 1)]
            product *= t - newest[k - 1]
            terms.append((product, column[0]))
        return _combine(terms)


FORECASTERS = {"hold": Hold, "taylor": Taylor, "newton": Newton}
