"""One plan for several models: the mean of what each of them asks for, at steps that serve the models it is not of.

Each setting (a model under a sampler) is fitted alone, at the same steps. Coefficients have no unit, so plans can be
averaged. The mean is not trusted all the way: it is drawn to a half slope, and second differences, on which models
agree least, are left out (``TRUST``). A schedule is judged as the plan will be used, on models that did not teach it:
each setting is sampled with the mean of what the other groups ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import Fit
from c4d.calibrate.reference import Track
from c4d.calibrate.search import Allowance, Journal, Search, Told, score
from c4d.core.caching.solver import HALF_SLOPE, Coefficients, Plan

TRUST: Coefficients = (0.7, 0.7, 0.0, 0.7, 0.7)


@dataclass(frozen=True)
class Setting:
    """The samples of a model under one sampler; settings of one ``group`` are of one model."""

    name: str
    group: str
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


class Together(Search):
    """The search for a schedule that serves all ``settings``.

    Raises :class:`CalibrationError` for settings of other numbers of steps or kinds of prediction, or of one model.
    """

    def __init__(self, settings: Sequence[Setting], *, told: Told | None = None, trust: Coefficients = TRUST) -> None:
        first = settings[0].fit.reference
        for setting in settings:
            other = setting.fit.reference
            if other.steps != first.steps or other.coordinate is not first.coordinate:
                raise CalibrationError(
                    f"{setting.name} and {settings[0].name} differ in their steps or what they predict"
                )
        super().__init__(settings[0].fit, Journal(), told=told)
        self.settings, self.trust = settings, trust
        self._tracks: list[Track] = []

    def plan(self, computed: frozenset[int]) -> Plan:
        """What all settings teach."""
        return mean_plan(self._taught(computed)[1], self.trust)

    def scores(self, computed: frozenset[int]) -> dict[str, float]:
        """Of each setting, sampled with what the other groups teach; where there is one group, with its own."""
        tracks, plans = self._taught(computed)
        found = {}
        for setting in self.settings:
            others = [plan for plan, each in zip(plans, self.settings, strict=True) if each.group != setting.group]
            plan = mean_plan(others or plans, self.trust)
            weights = setting.fit.of_plan(plan)
            found[setting.name] = score(setting.fit.errors(setting.fit.follow(computed, weights=weights)))
        if sum(found.values()) / len(found) < self._least:
            self._tracks = tracks
        return found

    def _taught(self, computed: frozenset[int]) -> tuple[list[Track], list[Plan]]:
        tracks = []
        for k, setting in enumerate(self.settings):
            tracks.append(setting.fit.follow(computed, known=self._tracks[k : k + 1]))
        return tracks, [setting.fit.plan(track) for setting, track in zip(self.settings, tracks, strict=True)]

    def _score(self, computed: frozenset[int], allowed: Allowance, *, pruned: bool = False) -> float:
        allowed.take(self.fit.agreed)
        if self.journal.get(computed) is None:
            found = self.scores(computed)
            self.journal[computed] = sum(found.values()) / len(found)
            if self._told is not None:
                self._told(computed, self.journal[computed], self._least, allowed.left())
        return self.journal[computed]


def results(settings: Sequence[Setting], plan: Plan) -> Mapping[str, Tensor]:
    """Of each setting the mean squared distances [samples] of the results; also at other noise levels."""
    found = {}
    for setting in settings:
        fit = setting.fit
        computed = plan.steps(fit.reference.levels) | fit.reference.forced
        found[setting.name] = fit.errors(fit.follow(computed, weights=fit.of_plan(plan)))
    return found
