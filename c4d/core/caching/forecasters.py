"""Forecasters: the paper's recursion run on one-hot vectors gives the weight of each stored feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from c4d.core.caching.finite_differences import Hermite, Ordered, Taylor, Vector, combine, one_hot, slope
from c4d.core.types import LinearForecaster, Predicted


@dataclass(frozen=True)
class Reuse(LinearForecaster):
    """The last computed feature, as it was (FORA, TeaCache, First-Block Cache)."""

    @property
    def num_features(self) -> int:
        return 1

    def weights(self, times: Sequence[float], t: float) -> Vector:
        return [0.0] * (len(times) - 1) + [1.0]


@dataclass(frozen=True)
class Newton(Ordered):
    """Newton's interpolation through the stored features: exact on polynomials of its order over uneven times.

    It amplifies noise more than ``Taylor``, which is why no method defaults to it.
    """

    def weights(self, times: Sequence[float], t: float) -> Vector:
        newest = list(times)[::-1]
        column = one_hot(len(times))[::-1]
        terms, product = [(1.0, column[0])], 1.0
        for k in range(1, len(newest)):
            column = [slope(column[i], column[i + 1], newest[i] - newest[i + k]) for i in range(len(column) - 1)]
            product *= t - newest[k - 1]
            terms.append((product, column[0]))
        return combine(terms)


@dataclass(frozen=True)
class FoCa(LinearForecaster):
    """FoCa: Heun's rule from the last computed feature F, F + x/2 (F' + f'), x = t - t_last (arXiv 2508.16211).

    F' is the slope between the last two computed features, f' that between the last two of any kind, forecasts among
    them. Beyond ``HORIZON`` steps the change is that of the horizon, faded by horizon / x.
    """

    num_forecasts = 2
    HORIZON = 3.0

    @property
    def num_features(self) -> int:
        return 2

    def weights(self, times: Sequence[float], t: float) -> Vector:
        vectors = one_hot(len(times))
        computed = [i for i, time in enumerate(times) if not isinstance(time, Predicted)]
        last = computed[-1]
        if len(computed) < 2:
            return vectors[last]
        x = t - times[last]
        reach = x if x <= self.HORIZON else self.HORIZON**2 / x
        pairs = [(computed[-2], last), (len(times) - 2, len(times) - 1)]
        slopes = [slope(vectors[j], vectors[i], times[j] - times[i]) for i, j in pairs]
        return combine([(1.0, vectors[last]), *((reach / 2, found) for found in slopes)])


@dataclass(frozen=True)
class LinearExtrapolation(LinearForecaster):
    """FasterCache: F + ``weight`` (F - F') of the last two features of any kind, forecasts among them.

    arXiv 2410.19355, eq. 4, where the weight grows over the run; diffusers takes 0.5 throughout.
    """

    weight: float

    num_forecasts = 2

    def __post_init__(self) -> None:
        if isinstance(self.weight, bool) or not math.isfinite(self.weight):
            raise ValueError(f"weight must be a finite number, got {self.weight!r}")

    @property
    def num_features(self) -> int:
        return 2

    def weights(self, times: Sequence[float], t: float) -> Vector:
        vectors = one_hot(len(times))
        return combine([(1.0 + self.weight, vectors[-1]), (-self.weight, vectors[-2])]) if vectors[1:] else vectors[0]


@dataclass(frozen=True)
class LearnedWeights(LinearForecaster):
    """Weights that were learned for each step: (step, weights of the last features, oldest first)."""

    table: tuple[tuple[int, tuple[float, ...]], ...]

    @property
    def num_features(self) -> int:
        return max((len(weights) for _, weights in self.table), default=1)

    def weights(self, times: Sequence[float], t: float) -> Vector:
        learned = dict(self.table).get(int(t))
        if learned is None or len(learned) != len(times):
            raise ValueError(
                f"no weights were learned for step {int(t)} from {len(times)} features: the history began anew here (a "
                "second expert, another shape, a late branch), and learned weights assume an uninterrupted run"
            )
        return list(learned)


FORECASTERS = {
    "reuse": Reuse,
    "taylor": Taylor,
    "hermite": Hermite,
    "foca": FoCa,
    "trend": LinearExtrapolation,
    "newton": Newton,
}
