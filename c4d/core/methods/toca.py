"""ToCa, arXiv 2410.05317: between computed steps, some tokens are computed and the others reused.

    s mod N = 0:  F(s) is computed
    otherwise:    F_i(s) is computed of the round(R S) tokens i of the highest scores, F_i(s) = F_i(before) of others
    score_i = w_i / |w| + stale since_i / N,   and the best token of each cell of the grid gets + bonus score_i
    R = ratio (1 + over_steps (1 - 2 s/T)) (1 + over_layers (2 l - 1)), within 0 and 1

F is the output of a module in the blocks, before its gate. s is the step of T, N the ``interval``, l the place of the
block in its stack, from 0 to 1, S the number of tokens, since_i the steps since token i was computed there. Tokens are
computed of MLPs and of cross-attention (its queries); self-attention, and what single-stream blocks make of attention
and MLP together, are reused whole. The call without condition computes the tokens that the conditional one picked.

w_i is by ``score`` the norm of the token's cached output (``norm``), chance (``random``), or of the block's
self-attention on the last computed step the norm of the token's ``key`` or ``value``, the mean over the heads, or how
much ``attention`` it receives, the sum over heads and queries: all of them the authors' (s1 of the paper is the last).
Those of the self-attention are read from what goes into c4d's attention (``attention="auto"``), which stays fused; the
map is made beside it, a few queries at a time, and costs about as much once more as the attention of a computed step.
Keys have passed their norm, where the model has one, which leaves less in their length than in that of values.

Published, by ``attention`` (N, ratio of MLPs, over_layers, stale): FLUX.1 4, 0.04, -0.5, 0.25, which is r = 0.1 by 0.4
for a double-stream block; its single-stream blocks compute 0.16. For PixArt and OpenSora the published code takes the
entropy of cross-attention in its place, which is left out. For DiT over_steps 2, over_layers 0.2, bonus 0.6; there the
interval itself varies, round(N / (1.4 - 0.8 s/T)) and 2 from 0.2 T to 0.4 T, which is left out: a step is computed
where it divides a counter, of which it is not known from which end it counts.
"""

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval, Partly
from c4d.core.caching.rules import Rule, TokenRule
from c4d.core.caching.selectors import Scored


@method("toca", example="toca:interval=3,ratio=0.3,bonus=0")
def toca(
    interval: int,
    ratio: float = 0.1,
    score: str = "norm",
    stale: float = 0.25,
    bonus: float = 0.0,
    cell: int = 2,
    over_steps: float = 0.0,
    over_layers: float = 0.0,
    warmup: int = 1,
    last: int = 0,
) -> Rule:
    """ToCa: between computed steps, MLPs and cross-attention compute the tokens of the highest scores and reuse others.

    arXiv 2410.05317. ``score`` is ``norm`` (of what is cached), ``random``, or by the block's self-attention ``key``,
    ``value`` (their norms) or ``attention`` (received), which need c4d's attention. ``stale`` weighs how long a token
    was not computed, ``bonus`` the best one in each ``cell`` x ``cell`` of a frame. ``ratio`` is the share of tokens,
    which ``over_steps`` and ``over_layers`` tilt over the run and the blocks. Several ranks pick each among its own.
    """
    select = Scored(ratio, interval, score, stale, bonus, cell, over_steps, over_layers)
    return TokenRule(Partly(Interval(interval, warmup, last)), Reuse(), select=select)
