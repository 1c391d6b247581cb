"""One plan for several models: the mean of what each of them asks for.

Each setting (a model under a sampler) is fitted alone, at the same steps. Coefficients have no unit, so plans can be
averaged. The mean is not trusted all the way: it is drawn to a half slope, and second differences, on which models
agree least, are left out (``TRUST``). The steps have gaps that change smoothly (``starts.Shape``): a schedule that is
searched step by step suits the models that it was searched on, and another one worse than a smooth one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import Fit
from c4d.core.caching.solver import HALF_SLOPE, Coefficients, Plan

TRUST: Coefficients = (0.7, 0.7, 0.0, 0.7, 0.7)


@dataclass(frozen=True)
class Setting:
    """The samples of a model under one sampler."""

    name: str
    fit: Fit


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
    fits = [setting.fit.but(corrects_from=1.0) for setting in settings]
    return mean_plan([fit.plan(fit.follow(computed)) for fit in fits], trust)


def results(settings: Sequence[Setting], plan: Plan) -> Mapping[str, Tensor]:
    """Of each setting the mean squared distances [samples] of the results; also at other noise levels."""
    found = {}
    for setting in settings:
        fit = setting.fit
        computed = plan.steps(fit.reference.levels) | fit.reference.forced
        found[setting.name] = fit.errors(fit.follow(computed, weights=fit.of_plan(plan)))
    return found
