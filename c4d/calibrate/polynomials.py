"""Polynomials that are fitted to how one change follows another: by least squares, and monotone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from types import MappingProxyType

import torch

DEGREE = 4


@dataclass(frozen=True)
class Polynomial:
    """``coefficients``, the highest power first, fitted to changes from ``low`` to ``high``."""

    coefficients: tuple[float, ...]
    low: float
    high: float

    def __call__(self, x: float) -> float:
        """Its value; outside of its range that at the nearer end."""
        x, value = min(max(x, self.low), self.high), 0.0
        for c in self.coefficients:
            value = value * x + c
        return value


def least_squares(x: Sequence[float], y: Sequence[float], degree: int = DEGREE) -> Polynomial:
    """The polynomial of least squared error. Needs ``degree`` + 1 different ``x`` (ValueError)."""
    low, high = _range(x, degree)
    powers = [[t**k for k in range(degree + 1)] for t in _scaled(x, low, high)]
    found = _solved(powers, y)
    return Polynomial(_in_x(found, low, high), low, high)


def monotone(x: Sequence[float], y: Sequence[float], degree: int = DEGREE) -> Polynomial:
    """That of least squared error among those whose Bernstein coefficients on the range of ``x`` rise from 0 or more.

    Such a polynomial is nowhere negative and nowhere falls there. The rises are found by least squares under
    non-negativity: of all sets of them that may be above 0, the best one whose solution is not negative (there are
    2 ** (degree + 1)). Needs ``degree`` + 1 different ``x`` (ValueError).
    """
    low, high = _range(x, degree)
    bernstein = [[_bernstein(k, degree, (t + 1.0) / 2.0) for k in range(degree + 1)] for t in _scaled(x, low, high)]
    rises = [[sum(row[j:]) for j in range(degree + 1)] for row in bernstein]  # what one rise adds: all beyond it
    best, least = [0.0] * (degree + 1), math.inf
    places = range(degree + 1)
    for chosen in chain.from_iterable(combinations(places, n) for n in range(1, degree + 2)):
        solved = _solved([[row[j] for j in chosen] for row in rises], y)
        if min(solved) < 0.0:
            continue
        found = [0.0] * (degree + 1)
        for j, rise in zip(chosen, solved, strict=True):
            found[j] = rise
        error = sum((sum(map(float.__mul__, row, found)) - value) ** 2 for row, value in zip(rises, y, strict=True))
        if error < least:
            best, least = found, error
    total = [0.0] * (degree + 1)  # in powers of t in [-1, 1]
    for k in places:
        height = sum(best[: k + 1])
        part = [height * math.comb(degree, k)]
        for factor in [[0.5, 0.5]] * k + [[0.5, -0.5]] * (degree - k):
            part = _product(part, factor)
        total = [a + b for a, b in zip(total, part, strict=True)]
    return Polynomial(_in_x(total, low, high), low, high)


SHAPES: Mapping[str, Callable[[Sequence[float], Sequence[float]], Polynomial]] = MappingProxyType(
    {"monotone": monotone, "least-squares": least_squares}
)


def explained(fit: Callable[[float], float], x: Sequence[float], y: Sequence[float]) -> float | None:
    """R^2, the part of the variance of ``y`` that ``fit`` explains; None where ``y`` does not vary."""
    if not y:
        return None
    mean = sum(y) / len(y)
    total = sum((value - mean) ** 2 for value in y)
    rest = sum((value - fit(each)) ** 2 for each, value in zip(x, y, strict=True))
    return 1.0 - rest / total if total > 0.0 else None


def _range(x: Sequence[float], degree: int) -> tuple[float, float]:
    if (different := len(set(x))) <= degree:
        raise ValueError(
            f"it shows {different} different changes, and a polynomial of degree {degree} needs {degree + 1}"
        )
    return min(x), max(x)


def _scaled(x: Sequence[float], low: float, high: float) -> list[float]:
    """From [low, high] to [-1, 1]."""
    return [(2.0 * each - low - high) / (high - low) for each in x]


def _solved(rows: Sequence[Sequence[float]], y: Sequence[float]) -> list[float]:
    matrix, wanted = torch.tensor(rows, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)[:, None]
    found: list[float] = torch.linalg.lstsq(matrix, wanted, driver="gelsd").solution.flatten().tolist()
    return found


def _bernstein(k: int, degree: int, t: float) -> float:
    return float(math.comb(degree, k) * t**k * (1.0 - t) ** (degree - k))


def _product(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Of two polynomials, the lowest power first."""
    made = [0.0] * (len(a) + len(b) - 1)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            made[i + j] += one * other
    return made


def _in_x(scaled: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    """Of a polynomial in t (the lowest power first), that in x, the highest power first."""
    line, made = [-(low + high) / (high - low), 2.0 / (high - low)], [0.0]
    for c in reversed(scaled):
        made = _product(made, line)
        made[0] += c
    return tuple(reversed(made[: len(scaled)]))
