from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.policies import Accumulate, Bounded
from c4d.core.caching.rules import CacheMethod, Rule
from c4d.core.types import STACK, Probe


def seacache(threshold: float, order: int = 1, warmup: int = 1, last: int = 1, max_skips: int = 2) -> CacheMethod:
    """SeaCache: the stack's residual is forecast while the part of the latents that the noise leaves hardly changes.

    arXiv 2602.18993; diffusers defaults to threshold 0.25 (Wan, Cosmos 3), order 1, one first and last step computed,
    two reuses in a row. The change is that of ``Probe.SPECTRUM``, accumulated.
    """
    policy = Bounded(Accumulate(threshold, Probe.SPECTRUM), warmup, last, max_skips)
    name = f"seacache:threshold={threshold},order={order},warmup={warmup},last={last},max_skips={max_skips}"
    return CacheMethod(name, (Rule((STACK,), policy, Taylor(order)),))
