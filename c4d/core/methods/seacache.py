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
