"""The ladder of backward differences, its forecasters, and the filters that smooth what goes into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from c4d.core.types import AXES, LinearForecaster

Vector = list[float]
SMOOTHINGS, ANCHORS = ("exponential", "moving-average"), ("exact", "smoothed")


def one_hot(k: int) -> list[Vector]:
    return [[1.0 if i == j else 0.0 for j in range(k)] for i in range(k)]


def slope(new: Vector, old: Vector, gap: float) -> Vector:
    return [(a - b) / gap for a, b in zip(new, old, strict=True)]


def combine(terms: Sequence[tuple[float, Vector]]) -> Vector:
    return [math.fsum(c * v[j] for c, v in terms) for j in range(len(terms[0][1]))]


@dataclass(frozen=True)
class Ordered(LinearForecaster):
    """A forecaster of some order keeps one feature more."""

    order: int = 1
    over: str = "step"

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool) or not 0 <= self.order <= 8:
            raise ValueError(f"order must be a whole number from 0 to 8, got {self.order!r}")
        if self.over not in AXES:
            raise ValueError(f"unknown over={self.over!r}: a forecast runs over {' or '.join(AXES)}")

    @property
    def num_features(self) -> int:
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
            new.append(slope(new[-1], previous, gap))
        ladder = new
    return ladder


def exponential(features: Sequence[Vector], alpha: float) -> list[Vector]:
    """S_0 = F_0, S_i = alpha F_i + (1 - alpha) S_{i-1}, oldest first."""
    out = [features[0]]
    for feature in features[1:]:
        out.append(combine([(alpha, feature), (1.0 - alpha, out[-1])]))
    return out


def moving_average(features: Sequence[Vector]) -> list[Vector]:
    """S_0 = F_0, S_i = (F_{i-1} + F_i) / 2, oldest first."""
    return [features[0], *(combine([(0.5, a), (0.5, b)]) for a, b in pairwise(features))]


@dataclass(frozen=True)
class _Ladder(Ordered):
    """sum_i D_i * ``basis`` (i, t - t_last) over the ladder of backward differences, of smoothed features if asked for.

    ``smoothing`` (github.com/kalinplus/Cache4Diffusion, branch smooth) filters the last features before they are
    subtracted: "exponential" (S_i = alpha F_i + (1 - alpha) S_{i-1}) or "moving-average" (of two). ``anchor`` "exact",
    the hybrid, keeps D_0 and D_1 those of the features themselves, so that only the higher differences are smoothed;
    "smoothed" takes all of them from the filter, which puts the forecast behind by a part of the interval.
    Here the filter runs over the features as computed, at least three; there over what it gave out before.
    """

    smoothing: str | None = None
    alpha: float | None = None
    anchor: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smoothing not in (None, *SMOOTHINGS):
            raise ValueError(f"unknown smoothing {self.smoothing!r}: known are {', '.join(SMOOTHINGS)}")
        if self.anchor not in ANCHORS:
            raise ValueError(f"unknown anchor {self.anchor!r}: known are {', '.join(ANCHORS)}")
        if (self.smoothing == "exponential") != (self.alpha is not None):
            raise ValueError("smoothing=exponential and alpha belong together (published: 0.7 FLUX, 0.8 Qwen-Image)")
        if self.alpha is not None and not 0.0 < self.alpha <= 1.0:
            raise ValueError(f"alpha must be above 0 and at most 1 (1: no smoothing), got {self.alpha!r}")
        if self.smoothing is None and self.anchor == "smoothed":
            raise ValueError("anchor=smoothed needs a smoothing: exponential or moving-average")
        if self.smoothing and self.anchor == "exact" and self.order < 2:
            raise ValueError(
                f"smoothing with anchor=exact acts on differences from the second on, and order is {self.order}: take "
                "order=2 or anchor=smoothed"
            )

    @property
    def num_features(self) -> int:
        return max(self.order + 1, 3) if self.smoothing else self.order + 1

    def basis(self, i: int, x: float) -> float:
        raise NotImplementedError

    def weights(self, times: Sequence[float], t: float) -> Vector:
        features = one_hot(len(times))
        ladder = backward_differences(features, times)
        if self.smoothing:
            filtered = moving_average(features) if self.alpha is None else exponential(features, self.alpha)
            raw = 2 if self.anchor == "exact" else 0
            ladder = [*ladder[:raw], *backward_differences(filtered, times)[raw:]]
        x = t - times[-1]
        return combine([(self.basis(i, x), d) for i, d in enumerate(ladder[: self.order + 1])])


@dataclass(frozen=True)
class Taylor(_Ladder):
    """TaylorSeer: sum_i D_i (t - t_last)^i / i! over the ladder of backward differences (arXiv 2503.06923, eq. 4)."""

    def basis(self, i: int, x: float) -> float:
        return float(x**i / math.factorial(i))


@dataclass(frozen=True)
class Hermite(_Ladder):
    """HiCache: the same ladder with s^i H_i(s (t - t_last)) / i!, H_i the physicists' Hermite polynomials.

    arXiv 2508.16984; ``scale`` s is 0.5 in hicache_pp, 0.71 in FreqCa. Its first basis function is 2 s^2 x: at
    s = 0.707 the slope is Taylor's, at 0.5 it is half of that; even ones add a constant.
    """

    scale: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.scale, bool) or not 0.0 < self.scale < 1.0:
            raise ValueError(f"scale must be between 0 and 1, got {self.scale!r}")

    def basis(self, i: int, x: float) -> float:
        before, value = 0.0, 1.0
        for n in range(i):
            before, value = value, 2 * self.scale * x * value - 2 * n * before
        return self.scale**i * value / math.factorial(i)
