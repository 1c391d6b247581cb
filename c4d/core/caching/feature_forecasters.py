"""Forecasters that read the features: dynamic modes, and forecasts of their own for slow waves or single channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from c4d.core.caching.finite_differences import Hermite, Taylor
from c4d.core.caching.forecasters import BDF, AdamsBashforth, Reuse
from c4d.core.types import BLOCKS, GUIDANCE, OUTPUT, FeatureForecaster, FeatureOps, LinearForecaster

SOLVERS: Mapping[str, LinearForecaster] = {
    "reuse": Reuse(),
    **{f"taylor-{order}": Taylor(order) for order in range(1, 5)},
    "adams-bashforth-2": AdamsBashforth(),
    "bdf-2": BDF(),
}


@dataclass(frozen=True)
class ByChannel(FeatureForecaster):
    """HyCa: every channel of the hidden state is forecast by a solver of its own (arXiv 2510.04188).

    ``channels``: of each of the D channels the place of its solver in ``solvers``, which are names of ``SOLVERS``. The
    solver of most channels forecasts all of them, the others theirs alone: no more is held than that result and, one
    after the other, their channels of the features.
    """

    solvers: tuple[str, ...]
    channels: tuple[int, ...]

    sites, one_stream = (BLOCKS,), True

    def __post_init__(self) -> None:
        if unknown := [name for name in self.solvers if name not in SOLVERS]:
            raise ValueError(f"unknown solver {unknown[0]!r}: known are {', '.join(SOLVERS)}")
        if wrong := set(self.channels) - set(range(len(self.solvers))):
            raise ValueError(f"a channel has solver {wrong.pop()}, of {len(self.solvers)} that are counted from 0")

    @property
    def num_features(self) -> int:
        return max(solver.num_features for solver, _ in self._parts)

    @cached_property
    def _parts(self) -> list[tuple[LinearForecaster, Tensor]]:
        """The solvers, and the places of their channels; that of most channels first."""
        places = [torch.tensor([d for d, k in enumerate(self.channels) if k == i]) for i in range(len(self.solvers))]
        parts = [(SOLVERS[name], its) for name, its in zip(self.solvers, places, strict=True) if len(its)]
        return sorted(parts, key=lambda part: -len(part[1]))

    def combine(self, features: Sequence[Tensor], times: Sequence[float], t: float, field: FeatureOps) -> Tensor:
        if (width := features[-1].shape[-1]) != len(self.channels):
            raise ValueError(
                f"solvers were chosen for {len(self.channels)} channels, and this model has {width}: c4d calibrate "
                "hyca chooses them for it"
            )
        (most, _), *others = [(tuple(solver.weights(times, t)), places) for solver, places in self._parts]
        out = field.lincomb(features, most)
        for weights, places in others:
            if weights == most:  # the first features of a run leave no choice
                continue
            places = places.to(out.device, non_blocking=True)
            needed = [(x.index_select(-1, places), w) for x, w in zip(features, weights, strict=True) if w]
            out.index_copy_(-1, places, field.lincomb(*zip(*needed, strict=True)))
        return out


@dataclass(frozen=True)
class FrequencySplit(FeatureForecaster):
    """FreqCa: the slow part of a feature over its grid of tokens is kept, the rest forecast (arXiv 2510.08669).

    Slow are cosines (DCT-II) along every side of the grid whose radial frequency is at most ``cutoff`` of the largest;
    they are forecast by ``low``, the others by ``high``. Over several ranks one collective of the slow coefficients a
    forecast.
    """

    cutoff: float = 0.1
    order: int = 2
    scale: float = 0.71

    sites, needs_grid = (BLOCKS,), True

    def __post_init__(self) -> None:
        if isinstance(self.cutoff, bool) or not 0.0 < self.cutoff < 1.0:
            raise ValueError(f"cutoff must be between 0 and 1, got {self.cutoff!r}")
        self.high  # noqa: B018 - checks order and scale

    @property
    def low(self) -> LinearForecaster:
        return Reuse()

    @property
    def high(self) -> LinearForecaster:
        return Hermite(self.order, scale=self.scale)

    @property
    def num_features(self) -> int:
        return self.high.num_features

    def combine(self, features: Sequence[Tensor], times: Sequence[float], t: float, field: FeatureOps) -> Tensor:
        low, high = self.low.weights(times, t), self.high.weights(times, t)
        slow = field.lincomb(features, [a - b for a, b in zip(low, high, strict=True)])
        return field.lincomb([*features, field.low(slow, self.cutoff)], [*high, 1.0])


@dataclass(frozen=True)
class ProbeAligned(FeatureForecaster):
    """DiCache: F_2 + g (F_1 - F_2) of the last two features, g as far as the first blocks' residual has gone.

    That is kept between ``LEAST`` and ``MOST`` (arXiv 2508.17356). One wait for the device more in each reused forward.
    """

    sites, num_features, reads_probe = (BLOCKS,), 2, True
    LEAST, MOST = 1.0, 1.5

    def combine(self, features: Sequence[Tensor], times: Sequence[float], t: float, field: FeatureOps) -> Tensor:
        if len(features) < 2:
            return field.lincomb(features, [1.0])
        far = field.advance()
        g = min(max(far, self.LEAST), self.MOST) if far == far else self.LEAST
        return field.lincomb(features, [1.0 - g, g])


@dataclass(frozen=True)
class GuidanceWaves(FeatureForecaster):
    """CFG-Cache: the difference of the two branches, its slow and its fast part grown apart (arXiv 2410.19355, eq. 9).

    Slow are Fourier waves of up to a fifth of the shorter side of a picture. On every reused step they are multiplied
    by ``low_weight`` if the timestep is in ``LOW``, the others by ``high_weight`` if it is in ``HIGH``, once more each
    time (as in diffusers).
    """

    low_weight: float = 1.1
    high_weight: float = 1.1

    sites, num_forecasts, timed = (GUIDANCE,), 1, True
    PART, LOW, HIGH = 0.2, (99.0, 901.0), (-1.0, 301.0)

    def __post_init__(self) -> None:
        for name, value in (("low_weight", self.low_weight), ("high_weight", self.high_weight)):
            if isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")

    @property
    def num_features(self) -> int:
        return 1

    def combine(self, features: Sequence[Tensor], times: Sequence[float], t: float, field: FeatureOps) -> Tensor:
        last, timestep = features[-1], field.step.timestep
        assert timestep is not None  # timed
        low = self.low_weight if self.LOW[0] < timestep < self.LOW[1] else 1.0
        high = self.high_weight if self.HIGH[0] < timestep < self.HIGH[1] else 1.0
        if low == high:
            return field.lincomb([last], [low])
        slow = field.slow_waves(last, self.PART).to(last.dtype)
        return field.lincomb([last, slow], [high, low - high])


@dataclass(frozen=True)
class DynamicModes(FeatureForecaster):
    """HiCache++: dynamic mode decomposition of the last ``window`` features, as far as they are evenly spaced.

    The propagator F_{i+1} = A F_i is fitted to them, cut to singular values above 1e-4 of the largest (or ``rank``),
    and advanced by (t - t_last) / gap, a fractional power (hicache_pp 1.3; Schmid 2010). All of it in the span of the
    features, so that their inner products are all that is read: once after a computed step, in fp64, for each sample
    apart. With fewer than four evenly spaced features it is TaylorSeer of order 1.
    """

    window: int = 6
    rank: int | None = None

    sites, needs_double = (BLOCKS, OUTPUT), True
    CUT, RIDGE, LEAST = 1e-4, 1e-8, 4

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or self.window < self.LEAST:
            raise ValueError(f"window must be a whole number of at least {self.LEAST}, got {self.window!r}")
        if self.rank is not None and not 1 <= self.rank < self.window:
            raise ValueError(f"rank must be from 1 to {self.window - 1} (window - 1), got {self.rank!r}")

    @property
    def num_features(self) -> int:
        return self.window

    def weights(self, times: Sequence[float], t: float) -> Sequence[float]:
        """First-order Taylor weights: what is used until four features are evenly spaced."""
        few = times[-2:]
        return [0.0] * (len(times) - len(few)) + list(Taylor(1).weights(few, t))

    def combine(self, features: Sequence[Tensor], times: Sequence[float], t: float, field: FeatureOps) -> Tensor:
        even = evenly_spaced(times)
        if even < self.LEAST:
            return field.lincomb(features, self.weights(times, t))
        ahead = (t - times[-1]) / (times[-1] - times[-2])
        weights = [self._fit(gram[-even:, -even:], ahead) for gram in field.gram()]
        parts = [field.lincomb([x[b : b + 1] for x in features[-len(w) :]], w) for b, w in enumerate(weights)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _fit(self, gram: Tensor, ahead: float) -> list[float]:
        """[K, K] inner products of one sample -> weights of the last K - 1; [1.0] where nothing can be fitted."""
        if not torch.isfinite(gram).all():
            return [1.0]
        squares, vectors = torch.linalg.eigh(gram[:-1, :-1])
        values = squares.clamp_min(0.0).sqrt()
        kept = (values > self.CUT * values[-1]).nonzero().flatten()
        kept = kept[-(self.rank or len(kept)) :]
        if not len(kept):
            return [1.0]
        turned = vectors[:, kept] / (values[kept] + self.RIDGE)  # V S^-1
        inner = (vectors[:, kept] / values[kept]).T @ gram[:-1, 1:] @ turned  # U' F_1.. V S^-1
        poles, modes = torch.linalg.eig(inner)
        span = turned.to(modes.dtype) @ modes  # the modes in terms of the features from the second on
        later = gram[1:, 1:].to(modes.dtype)
        amounts = torch.linalg.lstsq(span.mH @ later @ span, span.mH @ later[:, -1:]).solution[:, 0]
        weights = (span @ (poles.pow(ahead) * amounts)).real
        return weights.tolist() if torch.isfinite(weights).all() else [1.0]


def evenly_spaced(times: Sequence[float]) -> int:
    """How many of the last times have the same gap."""
    gaps = [b - a for a, b in pairwise(times)][::-1]
    same = next((i for i, gap in enumerate(gaps) if gap != gaps[0]), len(gaps))
    return same + 1
