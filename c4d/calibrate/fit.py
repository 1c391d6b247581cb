"""The closed-loop fit: weights for a schedule, found step by step along the cached samplings themselves.

At a step that is not computed the target is not what the model would have returned, but the output that brings the
sampler back onto the uncached samples: the step is affine in it, and so can be inverted. Ridge regression towards a
damped slope over all prompts gives the weights, which are used at once; then comes the next step. So a fit costs as
many forwards as a cached run of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.lockstep import Arrival, Lockstep, Samplings
from c4d.calibrate.reference import Reference, Track, as_given, kept
from c4d.calibrate.sampler import affine
from c4d.core.caching.solver import FEATURES, HALF_SLOPE, Plan, coefficients_of, weights_of

RIDGE = 0.01  # of the mean square of the regressors


@dataclass
class Anchor:
    """A computed step: its index, and of each sampling the output and the latents as the model was given them."""

    index: int
    outputs: Sequence[Tensor]
    latents: Sequence[Tensor]


class Normal(NamedTuple):
    """Of what an output is made of, over samples: inner products [K, K], and those with the wanted output [K]; fp64."""

    gram: Tensor
    right: Tensor


Weights = Callable[[int, Sequence[Anchor]], "list[float]"]
Seen = Callable[[int, Sequence[Anchor], Normal], None]
Agreed = Callable[[Sequence[float]], "list[float]"]  # numbers that decide, as the first of several ranks has them


class Fit:
    """Fits and replays on the samplings of a reference."""

    def __init__(
        self, samplings: Samplings, reference: Reference, *, ridge: float = RIDGE, agreed: Agreed = list
    ) -> None:
        self.samplings, self.reference, self.ridge, self.agreed = samplings, reference, ridge, agreed
        self.count = sum(len(x) for x in reference.track.samples[0])

    def follow(
        self,
        computed: frozenset[int],
        *,
        rows: Sequence[int] | None = None,
        known: Sequence[Track] = (),
        weights: Weights | None = None,
        seen: Seen | None = None,
        watch: Callable[[int, Track], None] | None = None,
    ) -> Track:
        """A pass that computes ``computed`` and fits the weights of the other steps to ``rows`` of the samples.

        ``known``: tracks of earlier passes; the steps before the first in which a schedule differs are taken from the
        one with most of them. ``weights``: use these, fit nothing; ``seen(step, anchors, normal)`` is told what a fit
        would have been made of. ``watch(step, track)`` after each new step may raise to end the pass.
        """
        reference = self.reference
        if missing := sorted(reference.forced - computed):
            raise CalibrationError(f"step {missing[0]} is the first of a transformer, and has to be computed")
        before = max([reference.track, *known], key=lambda track: shared(track.computed, computed, reference.steps))
        same = shared(before.computed, computed, reference.steps)
        track = Track(computed, before.outputs[:same], before.samples[:same], before.inputs[:same])
        track.weights = {i: w for i, w in before.weights.items() if i < same}
        if same == reference.steps:
            track.samples.append(before.samples[-1])
            return track
        anchors: list[Anchor] = []
        after: list[Tensor] = []
        skipped = frozenset(range(reference.steps)) - computed | frozenset(range(same))
        with Lockstep(self.samplings, skipped) as passing:
            for i in range(reference.steps):
                arrivals = passing.arrive()
                assert arrivals is not None
                if i < same:
                    outputs = before.outputs[i]
                else:
                    own = [kept(a.sample) for a in arrivals]
                    track.samples.append(own)
                    track.inputs.append([as_given(passing, k, a, own[k]) for k, a in enumerate(arrivals)])
                    if i in computed:
                        outputs = [kept(a.output) for a in arrivals if a.output is not None]
                    else:
                        made = self._made(anchors, track.inputs[i])
                        normal = None
                        if weights is None or seen is not None:
                            normal = self._normal(made, self._targets(i, passing, arrivals), rows)
                        track.weights[i] = self._decided(i, anchors, normal, weights, seen)
                        outputs = [combined(track.weights[i], parts) for parts in made]
                    track.outputs.append(outputs)
                if i in computed:
                    anchors = self._anchored(anchors, Anchor(i, outputs, track.inputs[i]))
                after = passing.answer(outputs)
                if watch is not None and i >= same:
                    watch(i, track)
        track.samples.append([kept(x) for x in after])
        return track

    def plan(self, track: Track) -> Plan:
        """The track's schedule and weights, as levels and coefficients."""
        levels, between = self.reference.levels, []
        for i, w in sorted(track.weights.items()):
            past = [levels[k] for k in self._anchors(track.computed, i)]
            between.append((levels[i], coefficients_of(w, past, levels[i], self.reference.coordinate)))
        return Plan(tuple(levels[i] for i in sorted(track.computed)), tuple(between))

    def of_plan(self, plan: Plan) -> Weights:
        """Its weights on these steps."""
        levels, coordinate = self.reference.levels, self.reference.coordinate

        def weights(i: int, anchors: Sequence[Anchor]) -> list[float]:
            past = [levels[anchor.index] for anchor in anchors]
            return weights_of(plan.coefficients(past[-1], levels[i]), past, levels[i], coordinate)

        return weights

    def errors(self, track: Track) -> Tensor:
        """[samples] mean squared distance of the results from the uncached ones."""
        found = distances(track.samples[-1], self.reference.track.samples[-1])
        return torch.tensor(self.agreed(found.tolist()), dtype=torch.float64)

    def _anchors(self, computed: frozenset[int], step: int) -> list[int]:
        experts = self.reference.experts
        return [k for k in sorted(computed) if k < step and experts[k] == experts[step]][-FEATURES:]

    def _anchored(self, anchors: Sequence[Anchor], new: Anchor) -> list[Anchor]:
        """The last computed steps, of one transformer."""
        experts = self.reference.experts
        return [*(each for each in anchors if experts[each.index] == experts[new.index]), new][-FEATURES:]

    def _targets(self, i: int, passing: Lockstep, arrivals: Sequence[Arrival]) -> list[Tensor]:
        """Of each sampling, the output that brings it back onto its uncached sample."""
        steps = [affine(partial(passing.twin, k), arrival) for k, arrival in enumerate(arrivals)]
        return [step.output_for(x) for step, x in zip(steps, self.reference.track.samples[i + 1], strict=True)]

    def _decided(
        self, i: int, anchors: Sequence[Anchor], normal: Normal | None, weights: Weights | None, seen: Seen | None
    ) -> list[float]:
        if seen is not None and normal is not None:
            seen(i, anchors, normal)
        if weights is not None:
            return weights(i, anchors)
        assert normal is not None
        return self._solve(i, anchors, normal)

    def _made(self, anchors: Sequence[Anchor], latents: Sequence[Tensor]) -> list[list[Tensor]]:
        """Of each sampling, what its output is made of."""
        return [[*(anchor.outputs[k] for anchor in anchors), x, anchors[-1].latents[k]] for k, x in enumerate(latents)]

    def _normal(
        self, made: Sequence[Sequence[Tensor]], targets: Sequence[Tensor], rows: Sequence[int] | None
    ) -> Normal:
        """Over ``rows`` of the samples."""
        size = len(made[0])
        gram, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        for parts, target, chosen in zip(made, targets, self._rows(rows), strict=True):
            if chosen:
                x = torch.stack([part[chosen].flatten() for part in parts]).double()
                gram += x @ x.T
                right += x @ target[chosen].flatten().double()
        return Normal(gram, right)

    def _solve(self, i: int, anchors: Sequence[Anchor], normal: Normal) -> list[float]:
        """The weights of least squared error, drawn towards a half slope."""
        levels = self.reference.levels
        past = [levels[anchor.index] for anchor in anchors]
        prior = torch.tensor(weights_of(HALF_SLOPE, past, levels[i], self.reference.coordinate), dtype=torch.float64)
        free = len(prior) if self.reference.latents else len(prior) - 2
        gram = normal.gram[:free, :free]
        ridge = self.ridge * gram.diagonal().mean() * torch.eye(free, dtype=torch.float64)
        prior[:free] += torch.linalg.solve(gram + ridge, normal.right[:free] - gram @ prior[:free])
        if not prior.isfinite().all():
            raise CalibrationError(f"step {i} of a calibration sampling is not finite: try float32, or other samples")
        return self.agreed([float(w) for w in prior])

    def _rows(self, rows: Sequence[int] | None) -> list[list[int]]:
        """Of each sampling, those of its samples that are among ``rows`` of all."""
        found, first = [], 0
        for x in self.reference.track.samples[0]:
            found.append([k for k in range(len(x)) if rows is None or first + k in rows])
            first += len(x)
        return found


def shared(one: frozenset[int], other: frozenset[int], steps: int) -> int:
    """How many leading steps two schedules have in common."""
    return min(one ^ other, default=steps)


def combined(weights: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    made = weights[0] * parts[0]
    for w, part in zip(weights[1:], parts[1:], strict=True):
        if w:
            made = made + w * part
    return made


def distances(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """[samples] mean squared differences, fp64."""
    return torch.cat([(a - b).double().flatten(1).pow(2).mean(1) for a, b in zip(one, other, strict=True)])
