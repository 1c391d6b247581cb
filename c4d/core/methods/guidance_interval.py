"""Guidance in a limited interval, arXiv 2404.07724: outside of it the call without condition does not run.

    n_low < n(s) <= n_high:  u(s) is computed
    otherwise:               u(s) = c(s), so that guidance has no effect

u is the output of the call without condition, c that of the conditional one in the same step, and n(s) the noise level
of the step, from 1 to 0: sigma of a flow model; of others sigma / sqrt(1 + sigma^2) in the paper's (EDM's) sigma.

Published intervals are of EDM2 on ImageNet, and of other models: none is taken over here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from c4d.core.caching.forecasters import Nothing
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, REUSE
from c4d.core.caching.rules import GuidanceRule, Rule
from c4d.core.types import Action, Measured, Policy, RelativeL1, Signal, Step


@dataclass(frozen=True)
class NoiseWindow(Policy[None]):
    """Computes where the noise level is above ``low`` and at most ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high (noise levels, 0 to 1), got low={self.low}, high={self.high}")

    @property
    def by_noise(self) -> bool:
        return True

    def init(self) -> None:
        return None

    def decide(self, state: None, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, None]:
        assert step.levels is not None  # by_noise
        return (COMPUTE if self.low < step.levels[step.index] <= self.high else REUSE), None

    def idle(self, total: int, measured: Measured) -> str:
        return f"every noise level of the run was above {self.low:g} and at most {self.high:g}"


@method("guidance-interval", example="guidance-interval:low=0.25,high=0.8")
def guidance_interval(low: float = 0.0, high: float = 1.0) -> Rule:
    """A guidance interval: guidance has an effect at noise levels above ``low`` and up to ``high`` alone.

    arXiv 2404.07724. Elsewhere the call without condition is spared and the conditional output stands for it. Beside
    another method: ``taylorseer:interval=3+guidance-interval:low=0.2,high=0.8``. It needs calls that pipelines name,
    the conditional one first; or both in one batch, of which the model's spec says which half is which.
    """
    return GuidanceRule(NoiseWindow(low, high), Nothing())
