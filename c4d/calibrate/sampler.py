"""What a scheduler's step does with a model output: it has to be affine in it, and without noise of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.lockstep import Arrival
from c4d.core.caching.noise import COORDINATES, Coordinate
from c4d.core.runtime.schedulers import PREDICTIONS, prediction_of

TOLERANCE = 1e-3  # of the step's own size


class Affine(NamedTuple):
    """One step: the next sample is ``offset`` + ``slope`` * output. ``offset`` is fp32 on the host."""

    offset: Tensor
    slope: float

    def output_for(self, sample: Tensor) -> Tensor:
        """The output that steps to ``sample``; not finite where the step does not use it."""
        return (sample - self.offset) / self.slope


def affine(twin: Callable[[], Any], arrival: Arrival, *, checked: bool = False) -> Affine:
    """The coming step of a scheduler, made by copies of it (``twin()``) with zeros and with ones.

    ``checked``: raises :class:`CalibrationError` for a step that adds noise of its own, is not affine, or does not use
    the output at all.
    """
    like = arrival.sample.float()

    def after(output: Tensor) -> Tensor:
        made = twin().step(output, arrival.timestep, like, **arrival.given)
        return (made[0] if isinstance(made, tuple) else made.prev_sample).detach().float().cpu()

    zeros, ones = after(torch.zeros_like(like)), after(torch.ones_like(like))
    slope, name = (ones - zeros).mean().item(), type(twin()).__name__
    if checked and not slope:
        raise CalibrationError(f"{name} takes a step that does not use the model's output")
    if checked:
        if not torch.equal(zeros, after(torch.zeros_like(like))):
            raise CalibrationError(
                f"{name} adds noise of its own in every step, which no profile can forecast: take a sampler without "
                "(such as FlowMatchEulerDiscreteScheduler without stochastic_sampling, DDIM with eta=0, UniPC, or "
                "DPM-Solver++ without sde)"
            )
        other = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like.device)
        wanted = zeros + slope * other.cpu()
        if (after(other) - wanted).abs().max() > TOLERANCE * abs(slope) * other.abs().max():
            raise CalibrationError(
                f"the step of {name} is not affine in the model's output (thresholding, or clip_sample=True?), and a "
                "profile is fitted by inverting it"
            )
    return Affine(zeros, slope)


def coordinate_of(scheduler: Any) -> Coordinate:
    """By what the model predicts; raises :class:`CalibrationError` where the scheduler does not say it."""
    kind = prediction_of(scheduler)
    if kind is None:
        predicted = getattr(scheduler, "config", {}).get("prediction_type")
        raise CalibrationError(
            f"{type(scheduler).__name__} predicts {predicted!r}, of which no profile can be made: known are "
            f"{', '.join(PREDICTIONS)}"
        )
    return COORDINATES[kind]
