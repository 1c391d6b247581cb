"""First-Block Cache, github.com/chengzeyi/ParaAttention: the first block's residual decides about the others.

    d = sum |r(s) - r(A)| / sum |r(A)|;   d <= threshold reuses
    h_out(s) = h_1(s) + (h_out(A) - h_1(A))        on a reused step

h_1 is the hidden state after the first block, and r = h_1 - h_in is what the block added. h_out is the hidden state
after the last block. s is the step and A the last computed step. With ``first_blocks`` n, h_1 and r are those after n
blocks (Fn in cache-dit's DBCache). With ``last_blocks`` m, h_out is taken before the last m blocks, which always run
(Bn).

Published: threshold 0.05 in diffusers; 0.08 in DBCache, with 8 first blocks, 0 last blocks and 8 steps of warm-up.
"""

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import Bounded, Threshold
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Signal


@method("first-block", example="first-block:threshold=0.1")
def first_block(
    threshold: float,
    warmup: int = 1,
    last: int = 1,
    max_skips: int | None = None,
    first_blocks: int = 1,
    last_blocks: int = 0,
) -> Rule:
    """First-Block Cache: the first block always runs; if its residual moved little, the others' is reused.

    ParaAttention (github.com/chengzeyi/ParaAttention); diffusers defaults to threshold 0.05, the peers use 0.08-0.3.
    Reused is what the stack added after the first block; the residual is compared with the last computed step's.
    ``warmup`` first and ``last`` final steps are computed, at most ``max_skips`` in a row are reused (published: 1, 0,
    no limit). The first ``first_blocks`` and last ``last_blocks`` blocks run on every step (DBCache in cache-dit: 8 and
    0, warmup 8).
    """
    if warmup < 1:
        raise ValueError(f"warmup must be a whole number of at least 1, got {warmup}")
    policy = Bounded(Threshold(threshold, Signal.FIRST_BLOCKS), warmup, last, max_skips)
    return BlocksRule(policy, Reuse(), first_blocks=first_blocks, last_blocks=last_blocks)
