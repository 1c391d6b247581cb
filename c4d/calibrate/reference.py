"""The uncached samplings that a profile is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.lockstep import Arrival, Call, Lockstep, Samplings
from c4d.calibrate.sampler import affine, coordinate_of
from c4d.core.caching.noise import Coordinate
from c4d.core.runtime.steps import RunError, noise_levels

NEAR = 0.01  # relative: of tensors that are taken for the same, rounded to bf16 on the way
LOOPS = "a profile is for one denoising loop in which every step of the scheduler is made by calls of one transformer"


@dataclass
class Track:
    """A pass of all samplings. Of each step and each sampling, fp32 on the host: the output that was stepped with, and
    the sample before it; ``samples`` has one more entry, the results.

    ``computed``: the steps that a transformer ran in. ``weights``: of the others, what their outputs were made of.
    """

    computed: frozenset[int]
    outputs: list[list[Tensor]] = field(default_factory=list)
    samples: list[list[Tensor]] = field(default_factory=list)
    inputs: list[list[Tensor]] = field(default_factory=list)  # the samples as a transformer is given them
    weights: dict[int, list[float]] = field(default_factory=dict)


@dataclass
class Reference:
    """The uncached pass, and what it showed of model and sampler.

    ``levels``: the noise level of each step. ``experts``: the transformer of each step. ``latents``: whether outputs
    and latents are what the sampler steps with, so that a forecast can be made of both.
    """

    track: Track
    levels: list[float]
    experts: list[int]
    coordinate: Coordinate
    latents: bool

    @property
    def steps(self) -> int:
        return len(self.levels)

    @property
    def forced(self) -> frozenset[int]:
        """The first step, and that of each expert."""
        return frozenset(i for i, expert in enumerate(self.experts) if i == 0 or expert != self.experts[i - 1])


def record(samplings: Samplings) -> Reference:
    """Runs all samplings as they are.

    Raises :class:`CalibrationError` for a sampler that is not affine or adds noise, for an unknown kind of prediction,
    and for steps that no transformer makes, or several.
    """
    coordinate = coordinate_of(samplings.scheduler)
    track, experts, latents, levels = Track(frozenset()), list[int](), True, list[float]()
    after: list[Tensor] = []
    with Lockstep(samplings) as passing:
        while (arrivals := passing.arrive()) is not None:
            made = {call.expert for calls in passing.calls for call in calls}
            if len(made) != 1:
                what = "several transformers" if made else "no transformer"
                raise CalibrationError(f"step {passing.steps} of the sampler was made by {what} of this model: {LOOPS}")
            experts.append(made.pop())
            track.samples.append([kept(a.sample) for a in arrivals])
            track.inputs.append([as_given(passing, i, a) for i, a in enumerate(arrivals)])
            outputs = [a.output for a in arrivals if a.output is not None]
            track.outputs.append([kept(x) for x in outputs])
            if passing.steps < 2:
                affine(partial(passing.twin, 0), arrivals[0], checked=True)
                latents = latents and are_plain(passing.calls[0], track.inputs[-1][0], track.outputs[-1][0])
                levels = noise_of(passing.twin(0))
            after = [kept(x) for x in passing.answer(outputs)]
    track.samples.append(after)
    track.computed = frozenset(range(len(experts)))
    return Reference(track, levels[-len(experts) :], experts, coordinate, latents)


def noise_of(scheduler: Any) -> list[float]:
    """The noise level of each of its timesteps."""
    try:
        return [level.noise for level in noise_levels(scheduler)][: len(scheduler.timesteps)]
    except RunError as error:
        raise CalibrationError(str(error)) from error


def as_given(passing: Lockstep, index: int, arrival: Arrival) -> Tensor:
    """The sample as the scheduler scales it for the transformer."""
    scale = getattr(passing.twin(index), "scale_model_input", None)
    return kept(arrival.sample if scale is None else scale(arrival.sample, arrival.timestep))


def kept(x: Tensor) -> Tensor:
    """A copy in fp32 on the host."""
    return x.detach().to("cpu", torch.float32, copy=True)


def are_plain(calls: Sequence[Call], given: Tensor, output: Tensor) -> bool:
    """Whether a step's calls get the latents ``given``, and ``output`` is a mean of what they return.

    Guidance is one, with weights that add up to 1. Then a forecast of each branch, of its outputs and of the latents,
    is one of the guided output.
    """
    branches: list[Tensor] = []
    for call in calls:
        if call.latents is None or not _like(call.latents, given):
            return False
        if call.output.ndim != output.ndim or len(call.output) % len(output):
            return False
        for part in call.output.split(len(output)):
            if any(have < want for have, want in zip(part.shape, output.shape, strict=True)):
                return False
            branches.append(_cut(part, output).flatten().double().cpu())
    stacked = torch.stack(branches, 1)
    found = torch.linalg.lstsq(stacked, output.flatten().double()[:, None], driver="gelsd").solution
    rest = (stacked @ found).flatten() - output.flatten()
    return bool(rest.norm() <= NEAR * output.norm()) and abs(found.sum().item() - 1.0) <= NEAR


def _like(latents: Tensor, given: Tensor) -> bool:
    if latents.ndim != given.ndim or any(a < b for a, b in zip(latents.shape, given.shape, strict=True)):
        return False
    return bool((_cut(latents, given).float().cpu() - given).norm() <= NEAR * given.norm())


def _cut(x: Tensor, like: Tensor) -> Tensor:
    return x[tuple(slice(n) for n in like.shape)]
