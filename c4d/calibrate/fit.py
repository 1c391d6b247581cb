"""The closed-loop fit: weights for a schedule, found step by step along the cached samplings themselves.

At a step that is not computed the target is not what the model would have returned, but the output that brings the
sampler back onto the uncached samples: the step is affine in it, and so can be inverted. A robust ridge regression
towards a damped slope over all prompts gives the weights, which are used at once; then comes the next step. So a fit
costs as many forwards as a cached run of the prompts.

What a computed step hands on is corrected in the same way: its output tells how wrong the forecasts before it were.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.lockstep import Arrival, Lockstep, Samplings
from c4d.calibrate.reference import Reference, Track, as_given, kept
from c4d.calibrate.sampler import affine
from c4d.core.caching.solver import (
    AHEAD,
    FEATURES,
    HALF_SLOPE,
    NO_CORRECTION,
    Plan,
    coefficients_of,
    corrected_weights,
    correction_of,
    weights_of,
)

RIDGE = 0.01  # of the mean square of the regressors
FAR, TINY = 10.0, 1e-30
AGAIN, NEAR = 8, 0.1  # rounds of the robust fit, and the part of the median that every sample is missed by
MANY = 10  # samples; of fewer none is called unlike the others


@dataclass
class Anchor:
    """A computed step: its index, and of each sampling the output and the latents as the model was given them."""

    index: int
    outputs: Sequence[Tensor]
    latents: Sequence[Tensor]


class Normal(NamedTuple):
    """Of each sample: inner products of what its output is made of [S, K, K], those with the wanted output [S, K], and
    of that with itself [S]; fp64."""

    gram: Tensor
    right: Tensor
    square: Tensor

    def missed(self, weights: Tensor) -> Tensor:
        """[S] squared distances of what ``weights`` [K] make from the wanted outputs."""
        made = (self.gram @ weights) @ weights
        return (self.square - 2.0 * self.right @ weights + made).clamp_min(0.0)


@dataclass(frozen=True)
class Asked:
    """A step whose output is made of those of ``anchors``, computed ones, of which it may be the last itself.

    ``normal`` where weights are fitted.
    """

    index: int
    anchors: Sequence[Anchor]
    normal: Normal | None


Weights = Callable[[int, Sequence[Anchor]], "list[float]"]
Agreed = Callable[[Sequence[float]], "list[float]"]  # numbers that decide, as the first of several ranks has them


class Fit:
    """Fits and replays on the samplings of a reference.

    ``corrects_from``: the part of the run from which on computed steps are corrected, 1.0 for none.
    """

    def __init__(
        self,
        samplings: Samplings,
        reference: Reference,
        *,
        ridge: float = RIDGE,
        corrects_from: float = 0.0,
        agreed: Agreed = list,
    ) -> None:
        self.samplings, self.reference, self.agreed = samplings, reference, agreed
        self.ridge, self.corrects_from = ridge, corrects_from
        self.count = sum(len(x) for x in reference.track.samples[0])

    def but(self, *, ridge: float | None = None, corrects_from: float | None = None) -> Fit:
        """The same with another ridge, or other steps that are corrected."""
        ridge = self.ridge if ridge is None else ridge
        since = self.corrects_from if corrects_from is None else corrects_from
        return Fit(self.samplings, self.reference, ridge=ridge, corrects_from=since, agreed=self.agreed)

    def follow(
        self,
        computed: frozenset[int],
        *,
        rows: Sequence[int] | None = None,
        known: Sequence[Track] = (),
        weights: Weights | None = None,
        watch: Callable[[int, Track], None] | None = None,
    ) -> Track:
        """A pass that computes ``computed`` and fits the weights of the other steps to ``rows`` of the samples.

        ``known``: tracks of earlier passes; the steps before the first in which a schedule differs are taken from the
        one with most of them. ``weights``: use these, fit nothing. ``watch(step, track)`` after each new step may raise
        to end the pass.
        """
        walk = self.walk(computed, rows=rows, known=known, fitted=weights is None, watch=watch)
        try:
            asked = next(walk)
            while True:
                decided = self._solve(asked) if weights is None else weights(asked.index, asked.anchors)
                asked = walk.send(decided)
        except StopIteration as end:
            track: Track = end.value
            return track
        finally:
            walk.close()

    def walk(
        self,
        computed: frozenset[int],
        *,
        rows: Sequence[int] | None = None,
        known: Sequence[Track] = (),
        fitted: bool = True,
        watch: Callable[[int, Track], None] | None = None,
    ) -> Generator[Asked, list[float], Track]:
        """:meth:`follow`, where the caller gives the weights of each output that is made; returns the track."""
        reference = self.reference
        if missing := sorted(reference.forced - computed):
            raise CalibrationError(f"step {missing[0]} is the first of a transformer, and has to be computed")
        before = max([reference.track, *known], key=lambda track: shared(track.computed, computed, reference.steps))
        same = shared(before.computed, computed, reference.steps)
        track = Track(computed, before.outputs[:same], before.samples[:same], before.inputs[:same])
        track.weights = {i: w for i, w in before.weights.items() if i < same}
        track.raw = {i: x for i, x in before.raw.items() if i < same}
        if same == reference.steps:
            track.samples.append(before.samples[-1])
            return track
        others = frozenset(range(reference.steps)) - computed
        begun = max(min(others), self.corrects_from * reference.steps if fitted else 0.0)
        anchors: list[Anchor] = []
        after: list[Tensor] = []
        with Lockstep(self.samplings, others | frozenset(range(same))) as passing:
            for i in range(same):
                passing.arrive()
                if i in computed:
                    raw = before.raw.get(i, before.outputs[i])
                    anchors = self._anchored(anchors, Anchor(i, raw, track.inputs[i]))
                after = passing.answer(track.outputs[i])
            for i in range(same, reference.steps):
                arrivals = passing.arrive()
                assert arrivals is not None
                own = [kept(a.sample) for a in arrivals]
                track.samples.append(own)
                track.inputs.append([as_given(passing, k, a, own[k]) for k, a in enumerate(arrivals)])
                past = anchors[-AHEAD:]
                if i in computed:
                    outputs = track.raw[i] = [kept(a.output) for a in arrivals if a.output is not None]
                    past = anchors = self._anchored(anchors, Anchor(i, outputs, track.inputs[i]))
                if i not in computed or (i >= begun and len(anchors) > 1):
                    made = self._made(i, past, track.inputs[i])
                    normal = self._normal(made, self._targets(i, passing, arrivals, past), rows) if fitted else None
                    track.weights[i] = yield Asked(i, past, normal)
                    outputs = [combined(track.weights[i], parts) for parts in made]
                track.outputs.append(outputs)
                after = passing.answer(outputs)
                if watch is not None:
                    watch(i, track)
        track.samples.append([kept(x) for x in after])
        return track

    def plan(self, track: Track) -> Plan:
        """The track's schedule and weights, as levels and coefficients."""
        levels, coordinate, between, corrected = self.reference.levels, self.reference.coordinate, [], []
        for i, w in sorted(track.weights.items()):
            past = [levels[k] for k in self._anchors(track.computed, i)]
            if i in track.computed:
                corrected.append((levels[i], correction_of(w, past, self._after(i), coordinate)))
            else:
                between.append((levels[i], coefficients_of(w, past[-AHEAD:], levels[i], coordinate)))
        return Plan(tuple(levels[i] for i in sorted(track.computed)), tuple(between), tuple(corrected))

    def of_plan(self, plan: Plan) -> Weights:
        """Its weights on these steps."""
        levels, coordinate = self.reference.levels, self.reference.coordinate

        def weights(i: int, anchors: Sequence[Anchor]) -> list[float]:
            past = [levels[anchor.index] for anchor in anchors]
            if anchors[-1].index < i:
                return weights_of(plan.coefficients(past[-1], levels[i]), past, levels[i], coordinate)
            correction = plan.correction(levels[i]) or NO_CORRECTION
            return corrected_weights(correction, past, self._after(i), coordinate)

        return weights

    def errors(self, track: Track) -> Tensor:
        """[samples] mean squared distance of the results from the uncached ones."""
        found = distances(track.samples[-1], self.reference.track.samples[-1])
        return torch.tensor(self.agreed(found.tolist()), dtype=torch.float64)

    def _anchors(self, computed: frozenset[int], step: int) -> list[int]:
        experts = self.reference.experts
        return [k for k in sorted(computed) if k <= step and experts[k] == experts[step]][-FEATURES:]

    def _after(self, step: int) -> float:
        """The noise level of the next one."""
        return [*self.reference.levels, 0.0][step + 1]

    def _anchored(self, anchors: Sequence[Anchor], new: Anchor) -> list[Anchor]:
        """The last computed steps, of one transformer."""
        experts = self.reference.experts
        return [*(each for each in anchors if experts[each.index] == experts[new.index]), new][-FEATURES:]

    def _targets(
        self, i: int, passing: Lockstep, arrivals: Sequence[Arrival], anchors: Sequence[Anchor]
    ) -> list[Tensor]:
        """Of each sampling, the output that brings it back onto its uncached sample.

        No further from the last computed output than ``FAR`` times its length: a step that hardly uses its output (the
        last one of DDIM) would ask for anything.
        """
        targets = []
        for k, arrival in enumerate(arrivals):
            step, last = affine(partial(passing.twin, k), arrival), anchors[-1].outputs[k]
            change = step.output_for(self.reference.track.samples[i + 1][k]) - last if step.slope else 0.0 * last
            targets.append(last + change * min(1.0, float(FAR * last.norm() / change.norm().clamp_min(TINY))))
        return targets

    def _made(self, i: int, anchors: Sequence[Anchor], latents: Sequence[Tensor]) -> list[list[Tensor]]:
        """Of each sampling, what its output is made of."""
        last = [anchor for anchor in anchors if anchor.index < i][-1]
        return [[*(anchor.outputs[k] for anchor in anchors), x, last.latents[k]] for k, x in enumerate(latents)]

    def _normal(
        self, made: Sequence[Sequence[Tensor]], targets: Sequence[Tensor], rows: Sequence[int] | None
    ) -> Normal:
        """Of ``rows`` of the samples."""
        found = []
        for parts, target, chosen in zip(made, targets, self._rows(rows), strict=True):
            for k in chosen:
                x = torch.stack([part[k].flatten() for part in parts]).double()
                wanted = target[k].flatten().double()
                found.append((x @ x.T, x @ wanted, wanted @ wanted))
        return Normal(*(torch.stack(each) for each in zip(*found, strict=True)))

    def prior(self, asked: Asked) -> Tensor:
        """A half slope, or of a computed step its own output, as weights [K] fp64."""
        levels = self.reference.levels
        past = [levels[anchor.index] for anchor in asked.anchors]
        if asked.anchors[-1].index == asked.index:
            return torch.tensor([0.0] * (len(past) - 1) + [1.0, 0.0, 0.0], dtype=torch.float64)
        made = weights_of(HALF_SLOPE, past, levels[asked.index], self.reference.coordinate)
        return torch.tensor(made, dtype=torch.float64)

    def _solve(self, asked: Asked) -> list[float]:
        """Weights of least error, drawn towards those of :meth:`prior`."""
        assert asked.normal is not None
        prior = self.prior(asked)
        free = len(prior) if self.reference.latents else len(prior) - 2
        return self.agreed(finite(robust(asked.normal, prior, free, self.ridge), asked.index))

    def _rows(self, rows: Sequence[int] | None) -> list[list[int]]:
        """Of each sampling, those of its samples that are among ``rows`` of all."""
        found, first = [], 0
        for x in self.reference.track.samples[0]:
            found.append([k for k in range(len(x)) if rows is None or first + k in rows])
            first += len(x)
        return found


def robust(normal: Normal, prior: Tensor, free: int, ridge: float) -> Tensor:
    """Weights [K] of the least sum over samples of how far each is missed; the first ``free`` are fitted.

    By least squares, drawn towards ``prior``, in which a sample counts by the inverse of how far it was missed before.
    So a sample that is unlike the others does not decide for them, where there are many.
    """
    found, counts = prior, torch.ones_like(normal.square)
    for _ in range(1 + AGAIN if len(counts) >= MANY else 1):
        gram, right = torch.einsum("s,sij->ij", counts, normal.gram), counts @ normal.right
        square = gram[:free, :free]
        drawn = ridge * square.diagonal().mean() * torch.eye(free, dtype=torch.float64)
        change = torch.linalg.solve(square + drawn, (right - gram @ prior)[:free])
        found = torch.cat([prior[:free] + change, prior[free:]])
        missed = normal.missed(found)
        counts = (missed + NEAR * missed.median() + TINY * normal.square).clamp_min(TINY).rsqrt()
        counts = counts / counts.mean()
    return found


def finite(weights: Tensor, step: int) -> list[float]:
    """Raises :class:`CalibrationError` unless they are."""
    if not weights.isfinite().all():
        raise CalibrationError(f"step {step} of a calibration sampling is not finite: try float32, or other samples")
    return [float(w) for w in weights]


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
