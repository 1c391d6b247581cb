"""MagCache, arXiv 2506.09045: the residual is reused while a calibrated curve says that its length is steady.

    R_s = g_{A+1} g_{A+2} ... g_s
    error = sum_{i=A+1..s} |1 - R_i|;   error < threshold and s - A <= K  reuse
    h_out(s) = h_in(s) + r(A)                      on a reused step

g_s is the mean over tokens of |r(s)| / |r(s-1)|, measured once on the model. r = h_out - h_in is the residual of the
blocks, A the last computed step and K is ``max_skips``. The first ``retention`` (a part) of the steps is computed. At
another number of steps, log R comes from the sums of log g, interpolated linearly. What ``c4d calibrate magcache``
made has these sums over the noise level, for each branch of guidance and each expert, and serves other samplers too.

Published (threshold, K, retention): FLUX 0.24, 5, 0.1; Wan 2.1 T2V 14B 0.24, 6, 0.2 and 1.3B 0.12, 2, 0.2; Qwen-Image
0.06, 2, 0.2. The others are in published.json, the curves in magcache.json.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.curves import Curve, curve_of, of_ratios
from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, REUSE, never_small, positive, whole_number
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Action, Measured, Policy, RelativeL1, Scale, Signal, Step


def published_curves() -> dict[str, dict[str, Any]]:
    """Name -> {steps, cond, uncond, threshold, max_skips, retention, source, …} of the authors' calibrations."""
    curves: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("magcache.json").read_text())
    return curves


@dataclass(frozen=True)
class MagCachePolicy(Policy["tuple[int, int, float] | None"]):
    """Reuse while sum |1 - R| < ``threshold``, R the product of the curve's ratios since the last computed step.

    ``curves`` hold the logarithm of the length of the stack's residual over the noise level (``by_noise``) or over the
    place in a run; a branch and expert without one computes. The first ``retention`` of each expert's steps is
    computed, as are the ``never`` skipped steps of a published curve.
    """

    threshold: float
    max_skips: int
    retention: float
    curves: tuple[Curve, ...]
    by_noise: bool = False
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        positive("threshold", self.threshold)
        whole_number("max_skips", self.max_skips, 1)
        if not 0.0 <= self.retention < 1.0:
            raise ValueError(f"retention must be from 0 to below 1 (a part of the steps), got {self.retention!r}")

    def init(self) -> tuple[int, int, float] | None:
        return None  # the first step on this expert, the last computed one, the error since

    @property
    def scale(self) -> Scale:
        return Scale("error that the curve expects", self.threshold)

    def weigh(
        self, state: tuple[int, int, float] | None, step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> float | None:
        curve = curve_of(self.curves, step.branch, step.expert)
        if state is None or curve is None:
            return None
        first, last, error = state
        start, end = step.span or (first, step.total)
        kept = step.index < start + int(self.retention * (end - start) + 0.5)
        pinned = int(step.index * (len(curve.points) - 1) / max(1, step.total - 1) + 0.5) in self.never
        return None if kept or pinned or step.index - last > self.max_skips else error + self._off(curve, step, last)

    def decide(
        self, state: tuple[int, int, float] | None, step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> tuple[Action, tuple[int, int, float]]:
        first, last, _ = state or (step.index, step.index, 0.0)
        error = self.weigh(state, step, seen)
        if error is None or not error < self.threshold:
            return COMPUTE, (first, step.index, 0.0)
        return REUSE, (first, last, error)

    def _off(self, curve: Curve, step: Step, last: int) -> float:
        """By what part the curve says that the residual is longer or shorter than at the step ``last``."""
        places = step.levels if self.by_noise else [i / max(1, step.total - 1) for i in range(step.total)]
        assert places is not None  # by_noise
        return abs(1.0 - math.exp(curve.at(places[step.index]) - curve.at(places[last])))

    def idle(self, total: int, measured: Measured) -> str:
        run = [Step(i, total, "cond") for i in range(max(1, int(self.retention * total + 0.5)), total)]
        free = [(curve, curve.steps()[1:] if self.by_noise else run) for curve in self.curves]
        least = min((self._off(curve, step, step.index - 1) for curve, steps in free for step in steps), default=None)
        return never_small("change of the curve", least, f"below the threshold {self.threshold:g}")


@method("magcache", example="magcache:curve=wan2.1-t2v-1.3b,threshold=0.12,max_skips=2")
def magcache(
    curve: str | None = None, *, threshold: float, max_skips: int, retention: float = 0.2, path: str | None = None
) -> Rule:
    """MagCache: the stack's residual is reused while a calibrated curve says that its length hardly changes.

    arXiv 2506.09045; no forward waits for the device. ``curve`` names a published calibration; its published threshold,
    max_skips and retention: ``magcache:published=…``. Other step counts are taken from the curve's cumulative
    logarithm, not from its nearest entries, whose product would be another. Or ``path`` is what ``c4d calibrate
    magcache`` made: curves over the noise level.
    """
    known = published_curves()
    if (curve is None) == (path is None):
        raise ValueError(f"magcache takes curve= (known: {', '.join(known)}) or path=; give one of them")
    if path is not None:
        made = CalibrationData.load(path, "magcache", "curves")
        return BlocksRule(made.bound(MagCachePolicy(threshold, max_skips, retention, made.curves(), True)), Reuse())
    if curve not in known:
        raise ValueError(f"unknown magcache curve {curve!r}: known are {', '.join(known)}")
    found = known[curve]
    curves = of_ratios(**{key: found[key] for key in ("cond", "uncond", "experts") if key in found})
    never = tuple(found.get("never", ()))
    return BlocksRule(MagCachePolicy(threshold, max_skips, retention, curves, never=never), Reuse())
