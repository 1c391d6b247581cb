"""Where an evaluation of a ComfyUI sampler stands, told by the sigmas of its run: step, branch and noise level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from c4d.core.runtime.steps import NoiseLevel, RunError
from c4d.core.types import Step

# The class of comfy.model_sampling that makes a denoised sample of the model's output -> what that output is. Those
# that are not here (EDM, COSMOS_RFLOW, IMG_TO_IMG, distillations) derive from these, and mean another thing.
PREDICTIONS: Mapping[str, str] = MappingProxyType({"CONST": "flow", "EPS": "epsilon", "V_PREDICTION": "v"})
MOST = 4  # evaluations in a step: samplers of ComfyUI that keep to the sigmas of a run have three stages at most
NEAR = 0.02  # of the way to the next sigma: what uni_pc's logarithms and back make of one is far nearer


def prediction_of(model_sampling: Any) -> str | None:
    """What a model with this ``model_sampling`` predicts ("flow", "epsilon" or "v"); None if c4d does not know it."""
    means = next((cls for cls in type(model_sampling).__mro__ if "calculate_denoised" in vars(cls)), None)
    scaled = getattr(model_sampling, "sigma_data", 1.0) != 1.0
    return None if means is None or scaled else PREDICTIONS.get(means.__name__)


def level_of(sigma: float, prediction: str) -> NoiseLevel:
    """The parts of data and noise in what the model is given at ``sigma``: a flow model's are 1 - sigma and sigma.

    For others ComfyUI counts noise over data, and scales what it gives to the model so that the squares add up to 1.
    """
    if prediction == "flow":
        return NoiseLevel(1.0 - sigma, sigma)
    signal = 1.0 / math.sqrt(1.0 + sigma * sigma)
    return NoiseLevel(signal, sigma * signal)


class SamplerSteps:
    """The step tracker of one run (:class:`c4d.core.runtime.steps.StepTracker`).

    A sampler evaluates the guided model once a step (euler, dpmpp_2m, uni_pc, res_multistep, the ancestral ones), or
    more often (heun at the next sigma and again, dpm_2 between two). An evaluation at the sigma that comes next in the
    run opens that step; any other one belongs to the step under way, as its ``visit``. Every visit is a branch of its
    own: its outputs, one a step, lie on one curve.

    Args:
        sigmas: of the run, falling, N + 1 of them; the last is where it ends, and the model is not asked there.
        prediction: what the model predicts, None if that is not known.
    """

    def __init__(self, sigmas: Sequence[float], prediction: str | None) -> None:
        if any(after > before for before, after in pairwise(sigmas)):
            raise RunError(
                f"the sigmas of this run rise ({', '.join(f'{s:g}' for s in sigmas[:4])}, …), as where noise is added "
                "to a picture step by step: c4d caches sampling, so take this model without it"
            )
        self._sigmas, self._prediction = list(sigmas), prediction
        self._total = len(sigmas) - 1
        self._opened = False
        self._index = -1
        self.visit = 0
        self.sigma: float | None = None  # of the evaluation under way

    def evaluate(self, sigma: float) -> None:
        """The sampler asks for the guided model at ``sigma``. Raises RunError where that is no place of the run."""
        self.sigma = sigma
        coming = self._index + 1
        if coming < self._total and self._at(sigma, coming):
            self._index, self.visit = coming, 0
            return
        after = self._sigmas[coming] if coming < self._total else -math.inf
        between = self._index >= 0 and (self._at(sigma, self._index) or after < sigma < self._sigmas[self._index])
        self.visit += 1
        if not between or self.visit >= MOST:
            stands = f"after {self._sigmas[self._index]:g}" if self._index >= 0 else "at the beginning"
            expected = f"the next of the run is {after:g}" if coming < self._total else "the run has ended"
            raise RunError(
                f"the sampler asks for the model at sigma {sigma:g} {stands}, and {expected}. c4d follows samplers "
                "that take the sigmas of the run one after the other; those that choose their own or look ahead "
                "(dpm_adaptive, dpm_fast, heunpp2, churn, restarts) take the model without it"
            )

    def _at(self, sigma: float, index: int) -> bool:
        """Whether it is the sigma of this step."""
        there, after = self._sigmas[index : index + 2]
        return abs(sigma - there) <= NEAR * (there - after)

    # -- what a session asks

    def fresh(self) -> bool:
        return not self._opened

    def tick(self, name: str | None, timestep: Any, expert: int = 0) -> tuple[bool, Step]:
        new, self._opened = not self._opened, True
        return new, Step(self._index, self._total, str(name), expert)

    def timestep(self) -> float:
        if self.sigma is None:
            raise RunError("no forward was placed yet")
        return self.sigma

    def noise(self) -> NoiseLevel:
        return level_of(self.timestep(), self._known())

    def levels(self, total: int) -> tuple[float, ...]:
        return tuple(level_of(sigma, self._known()).noise for sigma in self._sigmas[:total])

    def noise_on_host(self) -> float | None:
        return None if self._prediction is None else self.noise().noise

    def _known(self) -> str:
        if self._prediction is None:
            raise RunError(
                "this method needs noise levels, and what this model predicts is none of "
                f"{', '.join(PREDICTIONS.values())}: take a method that goes by the steps alone (taylorseer-lite, dmd)"
            )
        return self._prediction
