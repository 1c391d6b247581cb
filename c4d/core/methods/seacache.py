"""SeaCache, arXiv 2602.18993: the residual is forecast while the latents, without their noise, change little.

    y = G z,   G(f) = a P / (a^2 P + b^2) along every axis, scaled to a mean of 1,   P = |f|^-3
    acc = acc + sum |y(s) - y(s-1)| / sum |y(s-1)|;   acc < threshold reuses, otherwise acc = 0
    h_out(A + x) = h_in(A + x) + R(A) + x (R(A) - R(A')) / (A - A')        on a reused step, order 1

z is the latents, f a frequency, a the level of the signal in the latents and b that of the noise. R = h_out - h_in is
the residual of the blocks. A is the last computed step, A' the one before it, and x the number of steps since A.

Defaults of diffusers: threshold 0.25, ``order`` 1, one first and one last step computed, two reuses in a row.
"""

from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.method import method
from c4d.core.caching.policies import Accumulate, Bounded
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Signal


@method("seacache", example="seacache:threshold=0.25")
def seacache(threshold: float, order: int = 1, warmup: int = 1, last: int = 1, max_skips: int = 2) -> Rule:
    """SeaCache: the stack's residual is forecast while the part of the latents that the noise leaves hardly changes.

    arXiv 2602.18993; diffusers defaults to threshold 0.25 (Wan, Cosmos 3), order 1, one first and last step computed,
    two reuses in a row. The change is that of ``Signal.SPECTRUM``, accumulated.
    """
    policy = Bounded(Accumulate(threshold, Signal.SPECTRUM), warmup, last, max_skips)
    return BlocksRule(policy, Taylor(order))
