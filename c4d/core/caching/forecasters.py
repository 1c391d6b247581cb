"""Forecasters: the paper's recursion run on one-hot vectors gives the weight of each stored feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from c4d.core.caching.finite_differences import (
    Hermite,
    Ordered,
    Taylor,
    Vector,
    backward_differences,
    combine,
    one_hot,
    slope,
)
from c4d.core.caching.policies import positive, whole_number
from c4d.core.types import LinearForecaster, Predicted, Step


@dataclass(frozen=True)
class Reuse(LinearForecaster):
    """The last computed feature, as it was (FORA, TeaCache, First-Block Cache)."""

    @property
    def num_features(self) -> int:
        return 1

    def weights(self, times: Sequence[float], t: float) -> Vector:
        return [0.0] * (len(times) - 1) + [1.0]


@dataclass(frozen=True)
class Nothing(LinearForecaster):
    """Nothing is stored, and nothing added: for rules of guidance, whose call without condition equals the other."""

    @property
    def num_features(self) -> int:
        return 0

    def weights(self, times: Sequence[float], t: float) -> Vector:
        return []


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
class _SecondOrder(LinearForecaster):
    """F + x D_1 + ``bend`` D_2 over TaylorSeer's ladder of backward differences D_i, x = t - t_last.

    Of two features it is the line through them, of one the feature itself.
    """

    @property
    def num_features(self) -> int:
        return 3

    def bend(self, x: float, gap: float) -> float:
        """``gap``: between the last two features."""
        raise NotImplementedError

    def weights(self, times: Sequence[float], t: float) -> Vector:
        ladder, x = backward_differences(one_hot(len(times)), times), t - times[-1]
        factors = [1.0, x, self.bend(x, times[-1] - times[-2])] if len(times) > 2 else [1.0, x]
        return combine(list(zip(factors, ladder, strict=False)))


@dataclass(frozen=True)
class AdamsBashforth(_SecondOrder):
    """The explicit two-step rule F + x (3 f - f') / 2, with the last slopes f and f' between features.

    With the coefficients that it has over uneven steps it would be Taylor's series of order 2; these go on along the
    tangent of the parabola through the last three features.
    """

    def bend(self, x: float, gap: float) -> float:
        return x * gap / 2


@dataclass(frozen=True)
class BDF(_SecondOrder):
    """The implicit rule of backward differentiation of order 2, over a step x behind a step h (r = x / h):

    F(t) = ((1 + r)^2 F - r^2 F' + x (1 + r) f(t)) / (1 + 2 r)

    The slope f(t), which it takes from the model, is extrapolated here: f + r (f - f'), of the last slopes f and f'
    between features. (With f itself it would be the line through the last two features.)
    """

    def bend(self, x: float, gap: float) -> float:
        return x * x * (gap + x) / (gap + 2 * x)


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


@dataclass(frozen=True)
class Chebyshev(LinearForecaster):
    """Spectrum: ridge regression on Chebyshev polynomials over the run, of the last ``features`` computed ones.

    F(t) = w x(t) (X'X + ridge I)^-1 X'F + (1 - w) (F_n + (t - t_n) / (t_n - t_{n-1}) (F_n - F_{n-1})), with rows x =
    (T_0, ..., T_degree) at 2 t / T - 1 (arXiv 2603.01623), in fp64. w is ``weight``; T is ``steps``, or the steps of
    the run. The ridge holds the constant down, too: of features that do not change it gives a little less.
    """

    degree: int = 4
    ridge: float = 0.1
    weight: float = 1.0
    features: int = 100
    steps: int | None = None

    def __post_init__(self) -> None:
        whole_number("degree", self.degree, 1)
        whole_number("features", self.features, 1)
        positive("ridge", self.ridge)
        if isinstance(self.weight, bool) or not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"weight must be from 0 (the line alone) to 1 (the polynomials alone), got {self.weight}")
        if self.steps is not None:
            whole_number("steps", self.steps, 1)

    @property
    def num_features(self) -> int:
        return self.features

    def of_run(self, step: Step) -> Chebyshev:
        return self if self.steps is not None else replace(self, steps=step.total)

    def weights(self, times: Sequence[float], t: float) -> Vector:
        X, now = torch.tensor([self._row(time) for time in times], dtype=torch.float64), self._row(t)
        gram = X.T @ X + self.ridge * torch.eye(self.degree + 1, dtype=torch.float64)
        smooth = torch.linalg.solve(gram, torch.tensor(now, dtype=torch.float64)) @ X.T
        few = times[-2:]
        line = [0.0] * (len(times) - len(few)) + Newton(1).weights(few, t)
        return combine([(self.weight, smooth.tolist()), (1.0 - self.weight, line)])

    def _row(self, t: float) -> Vector:
        assert self.steps is not None  # of_run
        place = 2.0 * t / self.steps - 1.0
        row = [1.0, place]
        while len(row) <= self.degree:
            row.append(2.0 * place * row[-1] - row[-2])
        return row


@dataclass(frozen=True)
class MeanVelocity(LinearForecaster):
    """MeanCache: a velocity goes on by what the mean of the last k differed from the first of them (arXiv 2601.19961).

    ``orders``: (computed step, k of the steps after it). Forecasts count as past velocities; with fewer than k of them
    it takes all there are. ``levels`` are the noise levels of the run.
    """

    orders: tuple[tuple[int, int], ...]
    levels: tuple[float, ...] = ()

    by_noise = True

    @property
    def num_features(self) -> int:
        return max((k for _, k in self.orders), default=1)

    @property
    def num_forecasts(self) -> int:
        return self.num_features

    def of_run(self, step: Step) -> MeanVelocity:
        assert step.levels is not None  # by_noise
        return replace(self, levels=step.levels)

    def weights(self, times: Sequence[float], t: float) -> Vector:
        i, s, vectors = int(t), [*self.levels, 0.0], one_hot(len(times))
        place = {int(time): n for n, time in enumerate(times)}
        after = max(int(time) for time in times if not isinstance(time, Predicted))
        wanted, k = dict(self.orders).get(after, 1), 0
        while k < wanted and i - k - 1 in place:
            k += 1
        span = s[i] - s[i - k]
        if k < 2 or span == 0.0:
            return vectors[-1]
        mean = combine([((s[j + 1] - s[j]) / span, vectors[place[j]]) for j in range(i - k, i)])
        ahead = (s[i + 1] - s[i]) / span
        return combine([(1.0, vectors[place[i - 1]]), (-ahead, vectors[place[i - k]]), (ahead, mean)])


FORECASTERS = {
    "reuse": Reuse,
    "taylor": Taylor,
    "hermite": Hermite,
    "foca": FoCa,
    "trend": LinearExtrapolation,
    "newton": Newton,
    "adams-bashforth": AdamsBashforth,
    "bdf": BDF,
    "chebyshev": Chebyshev,
}
