"""A fixed schedule, as the steps computation mask (SCM) of cache-dit, github.com/vipshop/cache-dit.

    s in C:     the blocks are computed
    otherwise:  h_out(s) = h_in(s) + R(A)

C is ``computed``. h_in and h_out are the hidden states before and after the blocks, and R = h_out - h_in. A is the last
computed step. A forecaster (``+taylor``) puts its forecast of R in the place of R(A). Nothing is published here: the
mask is the user's.
"""

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, Rule


@method("schedule", example="schedule:computed=0/1/5")
def schedule(computed: tuple[int, ...]) -> Rule:
    """A fixed schedule: exactly the steps in ``computed`` (0 among them) run, the others reuse the last residual.

    Steps computation masks, as in cache-dit's SCM; combine it with a forecaster: ``schedule:computed=0/1/2/6+taylor``.
    """
    if repeated := [step for step in computed if computed.count(step) > 1]:
        raise ValueError(f"step {repeated[0]} is listed twice; list every computed step once")
    return BlocksRule(StepMask(frozenset(computed)), Reuse())
