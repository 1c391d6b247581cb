"""Pyramid Attention Broadcast (PAB), arXiv 2408.12588: attention outputs are reused for a few steps.

    low < t < high and s mod N > 0:  F(s) = F(A)
    otherwise:                       F(s) is computed

F is the output of an attention. t is the scheduler's timestep, s the step of the run and A the last computed step. N is
the range of this kind of attention: ``attn`` or ``cross_attn``.

Published ranges (spatial, temporal, cross) and window: Latte 2, 3, 6 in 100 to 800; Open-Sora 2, 4, 6 in 450 to 930.
CogVideoX: spatial 2 in 100 to 850. The window of 100 to 800 is the default of diffusers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, REUSE, whole_number
from c4d.core.caching.rules import ModuleRule, Rule
from c4d.core.types import Action, Measured, Policy, RelativeL1, Signal, Step


@dataclass(frozen=True)
class PyramidPolicy(Policy[bool]):
    """Computed on every ``every``-th step of the run, and wherever the timestep is not between ``low`` and ``high``."""

    every: int
    low: float
    high: float

    def __post_init__(self) -> None:
        whole_number("the range (every N-th step)", self.every, 1)
        if not self.low < self.high:
            raise ValueError(f"low must be below high (timesteps, 0 to 1000), got low={self.low}, high={self.high}")

    @property
    def timed(self) -> bool:
        return True

    def init(self) -> bool:
        return False  # whether anything was computed yet

    def decide(self, started: bool, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, bool]:
        assert step.timestep is not None
        within = self.low < step.timestep < self.high
        return (REUSE if started and within and step.index % self.every else COMPUTE), True

    def idle(self, total: int, measured: Measured) -> str:
        if self.every == 1:
            return "a range of 1 computes every step"
        return f"no timestep of the run was between {self.low:g} and {self.high:g} and off every {self.every}. step"


@method("pab", example="pab:attn=2")
def pab(
    attn: int | None = None, cross_attn: int | None = None, low: float = 100.0, high: float = 800.0
) -> tuple[Rule, ...]:
    """Pyramid Attention Broadcast: attention outputs are reused for a few steps, cross-attention for more than others.

    arXiv 2408.12588. ``attn`` and ``cross_attn`` are their ranges: each is computed on every range-th step of the run,
    and always where the timestep is not between ``low`` and ``high`` (published: Latte 100 to 800, CogVideoX 100 to
    850, Open-Sora 450 to 930). Single-stream blocks, whose site is attention and MLP together, are computed. The
    broadcast of MLPs at listed timesteps is left out.
    """
    ranges = {"attn": attn, "cross_attn": cross_attn}
    given = {kind: every for kind, every in ranges.items() if every is not None}
    if not given:
        raise ValueError(f"pab needs a range for {' or '.join(ranges)}, such as attn=2,cross_attn=6")
    return tuple(ModuleRule(PyramidPolicy(every, low, high), Reuse(), (kind,)) for kind, every in given.items())
