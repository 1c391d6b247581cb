"""Delta-DiT, arXiv 2406.01125: early in the run what the back blocks add is reused, later what the front blocks add.

    s < b T:   h_out(s) = h_f(s) + (h_out(A) - h_f(A))         on a reused step
    s >= b T:  h_B(s) = h_in(s) + (h_B(A) - h_in(A))           on a reused step
    every N-th step is computed, and the first one after the turn

h_f is the hidden state after the first ``first`` blocks, which run on every step before the turn; h_B that before the
last ``last`` blocks, which run on every step after it. h_in and h_out are before and after all blocks. s is the step, T
their number, A the last computed step, N the ``interval`` and b the ``turn``. Front blocks make the outline, which is
settled late, back blocks the details, which are not there early.

The paper says how many blocks are skipped (those but ``first``, then those but ``last``), for PixArt-alpha and DiT-XL
of 28 blocks at 20 steps; its settings are not taken over here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Action, RelativeL1, Signal, Step, Wrapper


@dataclass(frozen=True)
class Turning(Wrapper["tuple[int | None, bool]"]):
    """``inner``, which begins anew at the part ``turn`` of the run."""

    inner: Interval
    turn: float

    def init(self) -> tuple[int | None, bool]:
        return self.inner.init(), False  # and whether the turn has come

    def decide(
        self, state: tuple[int | None, bool], step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> tuple[Action, tuple[int | None, bool]]:
        before, was_late = state
        late = step.index >= self.turn * step.total
        action, before = self.inner.decide(before if late == was_late else None, step, seen)
        return action, (before, late)


@method("delta-dit", example="delta-dit:interval=2,first=1,last=1")
def delta_dit(interval: int, first: int, last: int, turn: float = 0.5) -> Rule:
    """Delta-DiT: early in the run what the back blocks add is reused, later what the front blocks add.

    arXiv 2406.01125. Before the part ``turn`` of the run the first ``first`` blocks run on every step, after it the
    last ``last`` ones; the others on every ``interval``-th step. Refused where the last blocks alone take text and
    image as one sequence (FLUX.2).
    """
    return BlocksRule(Turning(Interval(interval), turn), Reuse(), first_blocks=first, last_blocks=last, turn=turn)
