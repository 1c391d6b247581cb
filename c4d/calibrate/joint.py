"""One plan for many settings: models, samplers, shifts, guidance, numbers of steps.

The coefficients of a plan are knots, between which they are linear in the noise level. So the output at any step of
any setting is linear in them, and the squared distance from the outputs that would bring each sampler back onto its
uncached samples has one least solution over all settings. Where the settings come along depends on the coefficients, so
that the passes are made again with each solution. Every step of every setting counts alike, whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from c4d.calibrate.fit import Anchor, Fit, Normal
from c4d.core.caching.solver import HALF_SLOPE, Coefficients, Plan, neighbours, weights_of

COUNT = len(HALF_SLOPE)
LEAST = 1e-9  # of the diagonal: coefficients of features that no setting has


@dataclass(frozen=True)
class Setting:
    """The samples of a model under one sampler; ``share`` is how much it counts."""

    name: str
    fit: Fit
    share: float = 1.0


class Knots:
    """The normal equations of a plan's coefficients, summed over settings."""

    def __init__(self, plan: Plan, prior: Sequence[Coefficients], ridge: float) -> None:
        self.plan, self.ridge = plan, ridge
        self._first = [sum(len(gap) for gap in plan.gaps[:j]) for j in range(len(plan.gaps))]
        self.prior = torch.tensor(prior, dtype=torch.float64).flatten()
        size = len(self.prior)
        self.matrix = torch.zeros(size, size, dtype=torch.float64)
        self.right = torch.zeros(size, dtype=torch.float64)

    def add(self, setting: Setting, i: int, anchors: Sequence[Anchor], normal: Normal) -> None:
        """One step that was not computed."""
        reference = setting.fit.reference
        past, level = [reference.levels[anchor.index] for anchor in anchors], reference.levels[i]
        gap, place = self.plan.place(past[-1], level)
        shares = neighbours([p for p, _ in self.plan.gaps[gap]], place)
        if not shares:
            return
        base, by = linear(past, level, partial(weights_of, coordinate=reference.coordinate))
        at = torch.cat([torch.arange(COUNT) + COUNT * (self._first[gap] + k) for k, _ in shares])
        to_weights = torch.cat([part * by for _, part in shares], 1)  # [weights, coefficients of the knots]
        mean = normal.gram.diagonal().mean()
        scale = setting.share / mean
        square = to_weights.T @ normal.gram @ to_weights * scale
        drawn = self.ridge * setting.share * to_weights.T @ to_weights
        self.matrix[at[:, None], at] += square + drawn
        self.right[at] += to_weights.T @ (normal.right - normal.gram @ base) * scale + drawn @ self.prior[at]

    def solved(self) -> Plan:
        diagonal = self.matrix.diagonal().mean().clamp_min(LEAST)
        eye = LEAST * diagonal * torch.eye(len(self.prior), dtype=torch.float64)
        found = torch.linalg.solve(self.matrix + eye, self.right + eye @ self.prior)
        return with_coefficients(self.plan, found.view(-1, COUNT).tolist())


def linear(past: Sequence[float], level: float, weights: partial[list[float]]) -> tuple[Tensor, Tensor]:
    """What the weights are without coefficients [K], and how each coefficient changes them [K, 5]."""
    base = torch.tensor(weights([0.0] * COUNT, past, level), dtype=torch.float64)
    units = torch.eye(COUNT).tolist()
    by = [torch.tensor(weights(unit, past, level), dtype=torch.float64) - base for unit in units]
    return base, torch.stack(by, 1)


def with_coefficients(plan: Plan, found: Sequence[Sequence[float]]) -> Plan:
    """The same levels with other coefficients, in their order."""
    between = []
    for (level, _), (a, b, c, d, e) in zip(plan.between, found, strict=True):
        between.append((level, (a, b, c, d, e)))
    return Plan(plan.computed, tuple(between))


def fit_jointly(
    settings: Sequence[Setting],
    plan: Plan,
    *,
    prior: Sequence[Coefficients] | None = None,
    ridge: float = 0.01,
    passes: int = 4,
) -> Plan:
    """``plan`` with the coefficients that suit all ``settings``; it begins with those that it has.

    They are drawn towards ``prior`` (a half slope). A pass costs a cached run of all samples of all settings.
    """
    prior = prior or [HALF_SLOPE] * len(plan.between)
    for _ in range(passes):
        knots = Knots(plan, prior, ridge)
        for setting in settings:
            fit = setting.fit
            computed = plan.steps(fit.reference.levels) | fit.reference.forced
            fit.follow(computed, weights=fit.of_plan(plan), seen=partial(knots.add, setting))
        plan = knots.solved()
    return plan


def flat(computed: Sequence[float], levels: Sequence[float]) -> Plan:
    """A plan that computes at the noise levels ``computed``, with half slopes at the other ``levels``."""
    return Plan(tuple(computed), tuple((n, HALF_SLOPE) for n in levels if n not in computed and n < computed[0]))


def errors(settings: Sequence[Setting], plan: Plan) -> dict[str, Tensor]:
    """Of each setting the mean squared distances [samples] of the results."""
    found = {}
    for setting in settings:
        fit = setting.fit
        computed = plan.steps(fit.reference.levels) | fit.reference.forced
        found[setting.name] = fit.errors(fit.follow(computed, weights=fit.of_plan(plan)))
    return found
