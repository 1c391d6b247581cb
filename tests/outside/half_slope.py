"""A method of another package: what ``docs/adding_a_method.md`` ends with."""

from dataclasses import dataclass

import c4d


@dataclass(frozen=True)
class HalfSlope(c4d.LinearForecaster):
    history = 2

    def weights(self, times, t):
        if len(times) < 2:
            return [1.0]
        half = (t - times[-1]) / (times[-1] - times[-2]) / 2
        return [-half, 1 + half]


@dataclass(frozen=True)
class Thinning(c4d.Policy):
    dense: int

    def init(self):
        return None

    def decide(self, state, step, seen):
        if state is None or step.index < self.dense:
            return c4d.Action.COMPUTE, (step.index, 1)
        last, gap = state
        if step.index - last <= gap:
            return c4d.Action.REUSE, state
        return c4d.Action.COMPUTE, (step.index, gap + 1)


@c4d.method("half-slope", example="half-slope:dense=3")
def half_slope(dense: int = 2):
    """HalfSlope: gaps that grow, and half of the last slope between them.

    No paper has it.
    """
    return c4d.BlocksRule(Thinning(dense), HalfSlope())
