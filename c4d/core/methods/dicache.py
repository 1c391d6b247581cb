"""DiCache, arXiv 2508.17356: the first blocks of each step, a probe, say when to reuse, and how far to go on.

    d = sum |p(s) - p(s-1)| / sum |p(s-1)|                                 ``error=delta_y``
    d = |the same - sum |h_in(s) - h_in(s-1)| / sum |h_in(s-1)||           ``error=delta_minus``
    acc = acc + d;   acc < threshold reuses, otherwise the step is computed and acc = 0
    h_out(s) = h_in(s) + R(A') + g (R(A) - R(A'))         on a reused step
    g = sum |r(s) - r(A')| / sum |r(A) - r(A')|,  from 1 to 1.5

p is the hidden state after the first ``depth`` blocks, r = p - h_in what they add, R = h_out - h_in what all blocks
add. s is the step, A the last computed step and A' the one before it; with a single one, R(A) is reused as it is. The
first int(``retention`` T) + 1 of T steps are computed, and the last one.

Published for FLUX.1-dev, 30 steps: depth 1 (1 to 5); delta_y with threshold 0.4 and retention 0.2, or delta_minus with
threshold 0.08 and retention 0 (github.com/Bujiazi/DiCache @ 3f0bd57, FLUX).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from c4d.core.caching.feature_forecasters import ProbeAligned
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, Accumulate
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Action, Measured, RelativeL1, Scale, Signal, Step, Wrapper


@dataclass(frozen=True)
class Beyond(Accumulate):
    """The same of what ``signal`` changes by more, or less, than ``other``."""

    other: Signal = Signal.ENTRY

    @property
    def signals(self) -> frozenset[Signal]:
        return frozenset({self.signal, self.other})

    @property
    def scale(self) -> Scale:
        return Scale(f"accumulated change of {self.signal.value} beyond that of {self.other.value}", self.threshold)

    def change(self, seen: Mapping[Signal, RelativeL1]) -> float | None:
        return abs(seen[self.signal].ratio - seen[self.other].ratio) if self.signals <= seen.keys() else None


ERRORS = {"delta_y": Accumulate, "delta_minus": Beyond}


@dataclass(frozen=True)
class Retained(Wrapper["float | None"]):
    """``inner``, but the first int(``part`` T) + 1 of T steps are computed, and the last one."""

    inner: Accumulate
    part: float

    def __post_init__(self) -> None:
        if isinstance(self.part, bool) or not 0.0 <= self.part < 1.0:
            raise ValueError(f"retention must be from 0 to below 1 (a part of the steps), got {self.part!r}")

    def _kept(self, step: Step) -> bool:
        return step.index <= int(self.part * step.total) or step.index == step.total - 1

    def init(self) -> float | None:
        return self.inner.init()

    def decide(self, acc: float | None, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, float | None]:
        return (COMPUTE, 0.0) if self._kept(step) else self.inner.decide(acc, step, seen)

    def weigh(self, acc: float | None, step: Step, seen: Mapping[Signal, RelativeL1]) -> float | None:
        return None if self._kept(step) else self.inner.weigh(acc, step, seen)

    def idle(self, total: int, measured: Measured) -> str:
        free = [(step, seen) for step, seen in measured if not self._kept(step)]
        if not free:
            return f"retention={self.part:g} computes all but the last of {total} steps, which is computed, too"
        return self.inner.idle(total, free)


@method("dicache", example="dicache:threshold=0.4")
def dicache(threshold: float, depth: int = 1, retention: float = 0.2, error: str = "delta_y") -> Rule:
    """DiCache: the first blocks always run; what all blocks add is reused while they change little, and goes on as far
    as they have gone.

    arXiv 2508.17356. Published for FLUX.1-dev: threshold 0.4, ``depth`` 1 block, ``retention`` 0.2 of the steps;
    ``error=delta_minus``, which takes the change of what comes to the blocks off, with threshold 0.08 and retention 0.
    The host waits twice for each reused forward. A computed forward goes on from the probe.
    """
    if error not in ERRORS:
        raise ValueError(f"unknown dicache error {error!r}: known are {', '.join(ERRORS)}")
    policy = Retained(ERRORS[error](threshold, Signal.PROBE), retention)
    return BlocksRule(policy, ProbeAligned(), first_blocks=depth, probe=True)
