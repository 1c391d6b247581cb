"""EasyCache, arXiv 2507.02860: output minus input is reused while the output is expected to change little.

    k = |v(A) - v(A')| / |x(A) - x(A')|
    acc = acc + k |x(s) - x(s-1)| / |v(A)|;   acc < threshold reuses, otherwise the step is computed and acc = 0
    v(s) = x(s) + (v(A) - x(A))                    on a reused step

x is the latents that the transformer is given, v is what it returns, and |.| is the sum of absolute values. s is the
step, A the last computed step and A' the one before it. k is how fast the output follows the input. It is measured on
the way; what ``c4d calibrate easycache`` made has k over the noise level instead, |v(s) - v(s-1)| / |x(s) - x(s-1)| of
uncached runs, which does not depend on how far apart computed steps were. That is not in the paper.

Published (threshold, warmup): HunyuanVideo 0.025, 5; Wan 2.1 0.05, 10. The last step is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.curves import Curve, curve_of
from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, REUSE, positive, whole_number
from c4d.core.caching.rules import OutputRule, Rule
from c4d.core.types import Action, Measured, Policy, RelativeL1, Scale, Signal, Step


class EasyCacheState(NamedTuple):
    """Since the last computed step: the accumulated change; how far its input had moved; its output's rate and size."""

    change: float = 0.0
    moved: float | None = None
    rate: float | None = None
    size: float = 0.0


@dataclass(frozen=True)
class EasyCachePolicy(Policy["tuple[EasyCacheState, int] | None"]):
    """Reuse while sum k |x_s - x_{s-1}| / |v| < ``threshold``, v the last computed output (arXiv 2507.02860, eq. 8).

    k = |v - v'| / |x - x'| of the last two computed steps: how fast the output follows the input. The first ``warmup``
    and last ``last`` steps are computed, and never more than ``max_skips`` in a row are reused. ``rates``, where there
    are some, are k over the noise level.
    """

    threshold: float
    warmup: int
    last: int = 1
    max_skips: int | None = None
    rates: tuple[Curve, ...] = ()

    def __post_init__(self) -> None:
        positive("threshold", self.threshold)
        whole_number("warmup", self.warmup, 2)  # k needs two computed steps
        whole_number("last", self.last, 0)
        if self.max_skips is not None:
            whole_number("max_skips", self.max_skips, 1)

    @property
    def by_noise(self) -> bool:
        return bool(self.rates)

    @property
    def signals(self) -> frozenset[Signal]:
        return frozenset({Signal.INPUT, Signal.INPUT_SINCE, Signal.OUTPUT})

    def init(self) -> tuple[EasyCacheState, int] | None:
        return None  # and how many were skipped in a row

    @property
    def scale(self) -> Scale:
        return Scale("accumulated change that the output is expected to make", self.threshold)

    def weigh(
        self, state: tuple[EasyCacheState, int] | None, step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> float | None:
        if state is None or Signal.INPUT not in seen or Signal.INPUT_SINCE not in seen:
            return None
        since, skipped = self._followed(state[0], step, seen), state[1]
        forced = step.index < self.warmup or step.index >= step.total - self.last
        if forced or since.rate is None or skipped == self.max_skips or since.size <= 0.0:
            return None
        return since.change + since.rate * seen[Signal.INPUT].delta / since.size

    def decide(
        self, state: tuple[EasyCacheState, int] | None, step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> tuple[Action, tuple[EasyCacheState, int]]:
        if state is None or Signal.INPUT not in seen or Signal.INPUT_SINCE not in seen:
            return COMPUTE, (EasyCacheState(), 0)
        since, change = self._followed(state[0], step, seen), self.weigh(state, step, seen)
        if change is not None and change < self.threshold:  # not so if it is no number
            return REUSE, (since._replace(change=change), state[1] + 1)
        return COMPUTE, (since._replace(change=0.0, moved=seen[Signal.INPUT_SINCE].delta), 0)

    def _followed(self, since: EasyCacheState, step: Step, seen: Mapping[Signal, RelativeL1]) -> EasyCacheState:
        """With the rate and size of the last two computed outputs, if they are newly measured; the rate of a curve, if
        there is one of this branch and expert."""
        if Signal.OUTPUT in seen and since.moved is not None:
            output = seen[Signal.OUTPUT]
            since = since._replace(rate=RelativeL1(output.delta, since.moved).ratio, size=output.base)
        if since.rate is not None and (curve := curve_of(self.rates, step.branch, step.expert)) is not None:
            assert step.levels is not None  # by_noise
            since = since._replace(rate=curve.at(step.levels[step.index]))
        return since

    def idle(self, total: int, measured: Measured) -> str:
        if self.warmup + self.last >= total:
            return f"the first {self.warmup} and last {self.last} steps are always computed, and the run has {total}"
        return f"the output's expected change was never below the threshold {self.threshold:g}"


@method("easycache", example="easycache:threshold=0.05,warmup=10")
def easycache(
    threshold: float, warmup: int, last: int = 1, max_skips: int | None = None, path: str | None = None
) -> Rule:
    """EasyCache: output minus input is reused while the input moves little, at the rate at which outputs followed it.

    arXiv 2507.02860. Published: HunyuanVideo 0.025 with 5 steps of warm-up, Wan 2.1 0.05 with 10; the last step is
    computed. Each branch of guidance decides for itself (there the unconditional one follows the other). With the
    ``path`` of what ``c4d calibrate easycache`` made that rate is the calibrated one (not in the paper).
    """
    if path is None:
        return OutputRule(EasyCachePolicy(threshold, warmup, last, max_skips), Reuse())
    made = CalibrationData.load(path, "easycache", "curves")
    policy = EasyCachePolicy(threshold, warmup, last, max_skips, made.curves())
    return OutputRule(made.bound(policy), Reuse())
