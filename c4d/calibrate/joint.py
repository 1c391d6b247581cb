"""One plan for many settings: models, samplers and guidance, all sampled in the same number of steps.

The settings are followed together. At a step that is not computed one ridge regression over all of them gives the
coefficients, which all use at once, as in the fit of one; each counts alike, whatever the size of its model. Samplers
place their steps a little differently, but coefficients have no unit. Where settings disagree, what they have in common
is small beside how far they are apart, and the coefficients are drawn further towards a half slope.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import RIDGE, Asked, Fit, finite
from c4d.calibrate.reference import Track
from c4d.core.caching.noise import Coordinate
from c4d.core.caching.solver import HALF_SLOPE, Coefficients, Plan, weights_of

LEAST = 1e-9  # of the diagonal: coefficients of features that are not there


@dataclass(frozen=True)
class Setting:
    """The samples of a model under one sampler; settings of one ``group`` (a model) are one opinion."""

    name: str
    group: str
    fit: Fit


def fit_jointly(
    settings: Sequence[Setting], computed: frozenset[int], *, ridge: float = RIDGE, wary: float = 0.0
) -> Plan:
    """The plan that suits all settings, at the noise levels of the first one.

    ``wary``: how much the coefficients are drawn towards a half slope where the groups disagree (0: not at all). Raises
    :class:`CalibrationError` for settings of other numbers of steps, or of another kind of prediction.
    """
    first = settings[0].fit.reference
    for setting in settings:
        other = setting.fit.reference
        if other.steps != first.steps or other.coordinate is not first.coordinate:
            raise CalibrationError(f"{setting.name} and {settings[0].name} differ in their steps or what they predict")
    between: list[tuple[float, Coefficients]] = []
    with ExitStack() as until_done:
        walks = [setting.fit.walk(computed) for setting in settings]
        for walk in walks:
            until_done.callback(walk.close)
        asked = [_next(walk) for walk in walks]
        while questions := [each for each in asked if isinstance(each, Asked)]:
            found, weights = _solved(settings, questions, ridge, wary)
            between.append((first.levels[questions[0].index], found))
            asked = [_next(walk, own) for walk, own in zip(walks, weights, strict=True)]
    return Plan(tuple(first.levels[i] for i in sorted(computed)), tuple(between))


def _next(walk: Generator[Asked, list[float], Track], weights: list[float] | None = None) -> Asked | Track:
    try:
        return next(walk) if weights is None else walk.send(weights)
    except StopIteration as end:
        track: Track = end.value
        return track


def _solved(
    settings: Sequence[Setting], asked: Sequence[Asked], ridge: float, wary: float
) -> tuple[Coefficients, list[list[float]]]:
    """The coefficients of a step, and the weights that each setting makes of them."""
    sums = {setting.group: Sums() for setting in settings}
    for setting, each in zip(settings, asked, strict=True):
        sums[setting.group].add(setting.fit, each, ridge)
    prior = torch.tensor(HALF_SLOPE, dtype=torch.float64)
    change = sum(sums.values(), Sums()).solved()
    if wary and len(sums) > 1:
        change = _trust(torch.stack([each.solved() for each in sums.values()]), wary) * change
    a, b, c, d, e = finite(prior + change, asked[0].index)
    weights = []
    for setting, each in zip(settings, asked, strict=True):
        levels = setting.fit.reference.levels
        past = [levels[anchor.index] for anchor in each.anchors]
        weights.append(weights_of((a, b, c, d, e), past, levels[each.index], setting.fit.reference.coordinate))
    return (a, b, c, d, e), weights


class Sums:
    """Normal equations of a change of the coefficients from a half slope."""

    def __init__(self) -> None:
        count = len(HALF_SLOPE)
        self.matrix, self.right = (
            torch.zeros(count, count, dtype=torch.float64),
            torch.zeros(count, dtype=torch.float64),
        )

    def __add__(self, other: Sums) -> Sums:
        made = Sums()
        made.matrix, made.right = self.matrix + other.matrix, self.right + other.right
        return made

    def add(self, fit: Fit, asked: Asked, ridge: float) -> None:
        """A step of one setting, which counts as much as one of any other."""
        assert asked.normal is not None
        levels = fit.reference.levels
        past, level = [levels[anchor.index] for anchor in asked.anchors], levels[asked.index]
        prior, by = fit.prior(asked), changes(past, level, fit.reference.coordinate)
        if not fit.reference.latents:
            by[:, 3:] = 0.0
        scale = asked.normal.gram.diagonal().mean()
        drawn = ridge * torch.eye(len(prior), dtype=torch.float64)
        self.matrix += by.T @ (asked.normal.gram / scale + drawn) @ by
        self.right += by.T @ (asked.normal.right - asked.normal.gram @ prior) / scale

    def solved(self) -> Tensor:
        least = LEAST * self.matrix.diagonal().mean() * torch.eye(len(self.right), dtype=torch.float64)
        return torch.linalg.solve(self.matrix + least, self.right)


def changes(past: Sequence[float], level: float, coordinate: Coordinate) -> Tensor:
    """[K, 5]: how each coefficient changes the weights."""
    units = torch.eye(len(HALF_SLOPE), dtype=torch.float64).tolist()
    none = torch.tensor(weights_of([0.0] * len(units), past, level, coordinate), dtype=torch.float64)
    return torch.stack(
        [torch.tensor(weights_of(unit, past, level, coordinate), dtype=torch.float64) - none for unit in units], 1
    )


def _trust(changes: Tensor, wary: float) -> float:
    """From 0 to 1: how much of a change is common to the opinions [groups, coefficients]."""
    common = changes.mean(0).pow(2).sum()
    apart = (changes - changes.mean(0)).pow(2).sum(1).mean()
    return float(common / (common + wary * apart).clamp_min(1e-30))


def results(settings: Sequence[Setting], plan: Plan) -> dict[str, Tensor]:
    """Of each setting the mean squared distances [samples] of the results; also at other noise levels."""
    found = {}
    for setting in settings:
        fit = setting.fit
        computed = plan.steps(fit.reference.levels) | fit.reference.forced
        found[setting.name] = fit.errors(fit.follow(computed, weights=fit.of_plan(plan)))
    return found
