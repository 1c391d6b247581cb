"""The uncached samplings that a profile is fitted to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.lockstep import Arrival, Call, Lockstep, Samplings
from c4d.calibrate.sampler import affine, coordinate_of
from c4d.calibrate.store import Store, reopened
from c4d.core.caching.noise import COORDINATES, Coordinate
from c4d.core.runtime.steps import RunError, noise_levels

SAMPLED = 64  # numbers of a sampling's noise, by which it is known again
NEAR = 0.01  # relative: of tensors that are taken for the same, rounded to bf16 on the way
LOOPS = "a profile is for one denoising loop in which every step of the scheduler is made by calls of one transformer"


@dataclass
class Track:
    """A pass of all samplings. Of each step and each sampling, fp32 on the host: the output that was stepped with, and
    the sample before it; ``samples`` has one more entry, the results.

    ``computed``: the steps that a transformer ran in. ``raw``: what it returned there, which may be corrected before it
    is stepped with. ``weights``: what outputs that were made or corrected are made of.
    """

    computed: frozenset[int]
    outputs: list[list[Tensor]] = field(default_factory=list)
    samples: list[list[Tensor]] = field(default_factory=list)
    inputs: list[list[Tensor]] = field(default_factory=list)  # the samples as a transformer is given them
    weights: dict[int, list[float]] = field(default_factory=dict)
    raw: dict[int, list[Tensor]] = field(default_factory=dict)


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


def record(
    samplings: Samplings, store: Store | None = None, told: Callable[[str], None] = lambda line: None
) -> Reference:
    """Runs all samplings as they are, and keeps in ``store`` what passes through the scheduler.

    ``told`` is told what it will take, after the first two steps. Raises :class:`CalibrationError` for a sampler that
    is not affine or adds noise, for an unknown kind of prediction, and for steps that no transformer makes, or several.
    """
    store, track, experts = store or Store(), Track(frozenset()), list[int]()
    coordinate, latents, levels = coordinate_of(samplings.scheduler), True, list[float]()
    started, after = time.monotonic(), list[Tensor]()
    with Lockstep(samplings) as passing:
        while (arrivals := passing.arrive()) is not None:
            made = {call.expert for calls in passing.calls for call in calls}
            if len(made) != 1:
                what = "several transformers" if made else "no transformer"
                raise CalibrationError(f"step {passing.steps} of the sampler was made by {what} of this model: {LOOPS}")
            experts.append(made.pop())
            outputs = [a.output for a in arrivals if a.output is not None]
            samples = [store.keep(a.sample) for a in arrivals]
            track.samples.append(samples)
            track.inputs.append([_given(passing, i, a, samples[i], store.keep) for i, a in enumerate(arrivals)])
            track.outputs.append([store.keep(x) for x in outputs])
            if passing.steps < 2:
                affine(partial(passing.twin, 0), arrivals[0], checked=True)
                made_of = None if samplings.apart else track.outputs[-1][0]
                latents = latents and are_plain(passing.calls[0], track.inputs[-1][0], made_of)
                levels = noise_of(passing.twin(0))
            after = passing.answer(outputs)
            if passing.steps == 1:
                told(expected(len(levels), samples, (time.monotonic() - started) / 2))
    track.samples.append([store.keep(x) for x in after])
    track.computed = frozenset(range(len(experts)))
    reference = Reference(track, levels[-len(experts) :], experts, coordinate, latents)
    first = [float(x) for x in track.samples[0][0].flatten()[:SAMPLED]]
    about = {"levels": reference.levels, "experts": experts, "kind": coordinate.name, "latents": latents}
    store.close({**about, "count": samplings.count, "first": first})
    return reference


def expected(steps: int, samples: Sequence[Tensor], seconds: float) -> str:
    """In words, what a reference pass of ``steps`` takes: 2 tensors a step and sample, and the time."""
    size = (2 * steps + 1) * sum(x.numel() for x in samples) * 4
    return f"reference samples: {steps} steps, about {steps * seconds:.0f} s and {size / 2**20:.1f} MiB on the host"


def reopen(samplings: Samplings, folder: Path) -> Reference | None:
    """The reference that an earlier, whole :func:`record` of these samplings kept in ``folder``; None if there is none.

    The noise that the first sampling begins with tells whether it is theirs.
    """
    if (found := reopened(folder)) is None or found[1]["count"] != samplings.count:
        return None
    tensors, about = iter(found[0]), found[1]
    with Lockstep(samplings) as passing:
        arrivals = passing.arrive()
        assert arrivals is not None
        if [float(x) for x in kept(arrivals[0].sample).flatten()[:SAMPLED]] != about["first"]:
            return None
        own = kept(arrivals[0].sample)
        scaled = as_given(passing, 0, arrivals[0], own) is not own
    track, count = Track(frozenset(range(len(about["experts"])))), samplings.count
    for _ in about["experts"]:
        track.samples.append([next(tensors) for _ in range(count)])
        track.inputs.append([next(tensors) for _ in range(count)] if scaled else track.samples[-1])
        track.outputs.append([next(tensors) for _ in range(count)])
    track.samples.append([next(tensors) for _ in range(count)])
    return Reference(track, about["levels"], about["experts"], COORDINATES[about["kind"]], about["latents"])


def noise_of(scheduler: Any) -> list[float]:
    """The noise level of each of its timesteps."""
    try:
        return [level.noise for level in noise_levels(scheduler)][: len(scheduler.timesteps)]
    except RunError as error:
        raise CalibrationError(str(error)) from error


def as_given(passing: Lockstep, index: int, arrival: Arrival, sample: Tensor) -> Tensor:
    """The sample as the scheduler scales it for the transformer; ``sample``, its copy on the host, if it does not."""
    return _given(passing, index, arrival, sample, kept)


def _given(passing: Lockstep, index: int, arrival: Arrival, sample: Tensor, keep: Callable[[Tensor], Tensor]) -> Tensor:
    scale = getattr(passing.twin(index), "scale_model_input", None)
    scaled = arrival.sample if scale is None else scale(arrival.sample, arrival.timestep)
    return sample if scaled is arrival.sample else keep(scaled)


def kept(x: Tensor) -> Tensor:
    """A copy in fp32 on the host."""
    return Store().keep(x)


def are_plain(calls: Sequence[Call], given: Tensor, output: Tensor | None) -> bool:
    """Whether a step's calls get the latents ``given``, and ``output`` (None: not known) is a mean of what they return.

    Guidance is one, with weights that add up to 1. Then a forecast of each branch, of its outputs and of the latents,
    is one of the guided output.
    """
    if output is None:
        return all(call.latents is not None and _like(call.latents, given) for call in calls)
    while len(output) % 2 == 0 and torch.equal(*output.chunk(2)):  # guided in one batch, it is there twice
        output, given = output.chunk(2)[0], given.chunk(2)[0]
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
