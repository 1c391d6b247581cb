"""One plan for several models: the mean of what each of them asks for.

Each setting (a model under a sampler) is fitted alone, at the same steps. Coefficients have no unit, so plans can be
averaged. The mean is not trusted all the way: it is drawn to a half slope, and second differences, on which models
agree least, are left out (``TRUST``). The steps have gaps that change smoothly (:class:`Shape`): a schedule that is
searched step by step suits the models that it was searched on, and another one worse than a smooth one does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import Fit
from c4d.core.caching.solver import HALF_SLOPE, Coefficients, Plan

FINE = 4001  # points of a run at which gaps are summed
TRUST: Coefficients = (0.7, 0.7, 0.0, 0.7, 0.7)


@dataclass(frozen=True)
class Setting:
    """The samples of a model under one sampler."""

    name: str
    fit: Fit


class Shape(NamedTuple):
    """How the gaps between computed steps change over a run: they rise to their longest and fall again.

    A gap at the part u of the run is r + (1 - r) u^rise (1 - u)^fall / m of the longest, where m is the greatest value
    of that product, and r is ``first`` before it and ``last`` after it.
    """

    first: float
    last: float
    rise: float
    fall: float

    def gap(self, u: Tensor) -> Tensor:
        peak = self.rise / (self.rise + self.fall)
        bump = u**self.rise * (1 - u) ** self.fall / (peak**self.rise * (1 - peak) ** self.fall)
        least = torch.where(u < peak, self.first, self.last)
        return least + (1 - least) * bump

    def steps(self, count: int, total: int) -> frozenset[int]:
        """``count`` of ``total`` steps with such gaps between them, and half a one after the last."""
        u = torch.linspace(0, 1, FINE, dtype=torch.float64)
        passed = torch.cumulative_trapezoid(1 / self.gap(u), u)
        passed, found = torch.cat([passed.new_zeros(1), passed / passed[-1]]), list[int]()
        for k in range(count):
            at = int(torch.searchsorted(passed, k / (count - 0.5)))
            step = round(float(u[at]) * total)
            found.append(next(s for s in sorted(range(total), key=lambda s: abs(s - step)) if s not in found))
        return frozenset(found)


SHAPES = tuple(Shape(*each) for each in itertools.product((0.25, 0.33), (0.12, 0.2), (1.0, 1.4, 1.8), (0.6, 0.9)))


def mean_plan(plans: Sequence[Plan], trust: Coefficients = TRUST) -> Plan:
    """The mean of plans of the same steps, at the noise levels of the first; of its difference to a half slope the
    part ``trust`` is kept."""
    between = []
    for points in zip(*(plan.between for plan in plans), strict=True):
        means = [sum(values) / len(plans) for values in zip(*(c for _, c in points), strict=True)]
        a, b, c, d, e = (h + part * (m - h) for h, part, m in zip(HALF_SLOPE, trust, means, strict=True))
        between.append((points[0][0], (a, b, c, d, e)))
    return Plan(plans[0].computed, tuple(between))


def fit_jointly(settings: Sequence[Setting], computed: frozenset[int], trust: Coefficients = TRUST) -> Plan:
    """The plan of these steps that all settings teach.

    Raises :class:`CalibrationError` for settings of other numbers of steps, or of another kind of prediction.
    """
    first = settings[0].fit.reference
    for setting in settings:
        other = setting.fit.reference
        if other.steps != first.steps or other.coordinate is not first.coordinate:
            raise CalibrationError(f"{setting.name} and {settings[0].name} differ in their steps or what they predict")
    return mean_plan([setting.fit.plan(setting.fit.follow(computed)) for setting in settings], trust)


def results(settings: Sequence[Setting], plan: Plan) -> Mapping[str, Tensor]:
    """Of each setting the mean squared distances [samples] of the results; also at other noise levels."""
    found = {}
    for setting in settings:
        fit = setting.fit
        computed = plan.steps(fit.reference.levels) | fit.reference.forced
        found[setting.name] = fit.errors(fit.follow(computed, weights=fit.of_plan(plan)))
    return found
