"""FreqCa, arXiv 2510.08669: the slow part of the last hidden state is reused, its fast part is forecast.

    F(A + x) = L F(A) + (1 - L) sum_{i=0..O} D_i s^i H_i(s x) / i!
    L keeps the cosines (k_1, k_2, ...) with  sqrt(sum_j (k_j / (n_j - 1))^2) <= c sqrt(d)

F is the hidden state after the last block. A is the last computed step and x the number of steps since A. D_i and H_i
are those of HiCache. L works on the grid of image tokens, which has d sides of n_j tokens; the cosines are a DCT-II. c
is ``cutoff``, O is ``order`` and s is ``scale``. Computed steps are those of TaylorSeer.

Published: FLUX and Qwen-Image with ``interval`` 6 or 9, O = 2, ``warmup`` 3, c = 0.1, s = 0.71; FLUX schnell (4 steps)
with interval 2.
"""

from c4d.core.caching.feature_forecasters import FrequencySplit
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import BlocksRule, Rule


@method("freqca", example="freqca:interval=6")
def freqca(
    interval: int, order: int = 2, warmup: int = 3, cutoff: float = 0.1, scale: float = 0.71, last: int = 0
) -> Rule:
    """FreqCa: of the hidden state after the last block the slow part is kept, and the rest forecast by Hermite.

    arXiv 2510.08669; published for FLUX and Qwen-Image with interval 6 or 9 and these defaults (schnell: interval 2).
    The bands are cosines over the model's own grid of tokens, of any shape; published are a square one (FLUX) and the
    sequence in a row (Qwen-Image).
    """
    return BlocksRule(
        Interval(interval, warmup, last), FrequencySplit(cutoff, order, scale), residual=False, drop_before=warmup - 2
    )
