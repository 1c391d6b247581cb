"""Pyramid Attention Broadcast (PAB), arXiv 2408.12588: attention outputs are reused for a few steps, MLPs' for some.

    low < t < high and s mod N > 0:  F(s) = F(A)
    otherwise:                       F(s) is computed
    on the n steps after each listed timestep, in the first b blocks:  M(s) = M(A);   otherwise M(s) is computed

F is the output of an attention, M that of an MLP. t is the scheduler's timestep, s the step of the run and A the last
computed step. N is the range of this kind of attention: ``attn`` or ``cross_attn``. n is ``mlp``, the timesteps are
``mlp_at`` and b is ``mlp_blocks``. A listed timestep that the run has not is its first one below.

Published ranges (spatial, temporal, cross) and window: Latte 2, 3, 6 in 100 to 800; Open-Sora 2, 4, 6 in 450 to 930.
CogVideoX: spatial 2 in 100 to 850. The window of 100 to 800 is the default of diffusers. MLPs: Open-Sora n = 2, b = 5
at 676, 788 and 864 (30 steps).
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


@dataclass(frozen=True)
class AfterTimesteps(Policy["tuple[float, int] | None"]):
    """Reuses on the ``count`` steps after each of the ``timesteps``, or after the first one below it."""

    count: int
    timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        whole_number("mlp (the steps after a timestep)", self.count, 1)
        if not self.timesteps or not all(0.0 < t < 1e6 for t in self.timesteps):
            raise ValueError(f"mlp_at are timesteps above 0, such as 676/788/864, got {self.timesteps!r}")

    @property
    def timed(self) -> bool:
        return True

    def init(self) -> tuple[float, int] | None:
        return None  # the timestep before, and how many steps are still to be reused

    def decide(
        self, state: tuple[float, int] | None, step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> tuple[Action, tuple[float, int]]:
        now = step.timestep
        assert now is not None
        before, left = state or (float("inf"), 0)
        if any(now <= t < before for t in self.timesteps):
            return COMPUTE, (now, self.count)
        return (REUSE, (now, left - 1)) if left else (COMPUTE, (now, 0))

    def idle(self, total: int, measured: Measured) -> str:
        return f"no step of the run comes after one of the timesteps {', '.join(f'{t:g}' for t in self.timesteps)}"


@method("pab", example="pab:attn=2")
def pab(
    attn: int | None = None,
    cross_attn: int | None = None,
    low: float = 100.0,
    high: float = 800.0,
    mlp: int | None = None,
    mlp_at: tuple[float, ...] | None = None,
    mlp_blocks: int = 5,
) -> tuple[Rule, ...]:
    """Pyramid Attention Broadcast: attention outputs are reused for a few steps, cross-attention for more than others.

    arXiv 2408.12588. ``attn`` and ``cross_attn`` are their ranges: each is computed on every range-th step of the run,
    and always where the timestep is not between ``low`` and ``high`` (published: Latte 100 to 800, CogVideoX 100 to
    850, Open-Sora 450 to 930). Single-stream blocks, whose site is attention and MLP together, are computed. With
    ``mlp`` and ``mlp_at`` the MLPs of the first ``mlp_blocks`` blocks are reused for so many steps after each of these
    timesteps (Open-Sora: 2 after 676/788/864 of 30 steps).
    """
    ranges = {"attn": attn, "cross_attn": cross_attn}
    given = {kind: every for kind, every in ranges.items() if every is not None}
    if (mlp is None) != (mlp_at is None):
        raise ValueError("mlp (how many steps) and mlp_at (after which timesteps) belong together: mlp=2,mlp_at=676")
    if not given and mlp is None:
        raise ValueError(f"pab needs a range for {' or '.join(ranges)}, such as attn=2,cross_attn=6, or mlp=")
    rules = [ModuleRule(PyramidPolicy(every, low, high), Reuse(), (kind,)) for kind, every in given.items()]
    if mlp is not None and mlp_at is not None:
        rules.append(ModuleRule(AfterTimesteps(mlp, mlp_at), Reuse(), ("mlp",), leading=mlp_blocks))
    return tuple(rules)
