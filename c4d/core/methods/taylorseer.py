"""TaylorSeer, arXiv 2503.06923: features are forecast by a Taylor series over the steps.

    D_0 = F(A),  D_{i+1} = (D_i - D_i') / h            backward differences, i < O
    F(A + x) = sum_{i=0..O} D_i x^i / i!               on a reused step
    computed steps: 0 .. E-1, then E-1+N, E-1+2N, ...

A is the last computed step, D_i' is D_i at the computed step before it, and h is the number of steps between the two. O
is ``order``, E is ``warmup`` and N is ``interval``. Features from before step E-2 are dropped when later ones are
there. F is the output of attention and of MLP in each block; in TaylorSeer-Lite it is what the transformer returns.

Published (N, O, E): FLUX and Qwen-Image 6, 1, 3; HunyuanVideo and Wan 2.1 5, 1, 1; DiT-XL/2 4, 4, 2; HunyuanImage-2.1
(Lite) 5, 2, 3. The others are in published.json.
"""

from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import ModuleRule, OutputRule, Rule


@method("taylorseer", example="taylorseer:interval=5,order=2,warmup=3")
def taylorseer(interval: int, order: int = 1, warmup: int = 1, last: int = 0) -> Rule:
    """TaylorSeer: attention and MLP outputs forecast by a Taylor series of backward differences.

    arXiv 2503.06923. Published values: ``taylorseer:published=…``. It keeps order + 1 features of every module: see
    ``Report.peak_bytes``. Over noise levels, or with smoothed differences: ``+taylor:over=sigma``, …
    """
    return ModuleRule(Interval(interval, warmup, last), Taylor(order), drop_before=warmup - 2)


@method("taylorseer-lite", example="taylorseer-lite:interval=5")
def taylorseer_lite(interval: int, order: int = 1, warmup: int = 1, last: int = 0) -> Rule:
    """TaylorSeer-Lite: the same forecast of one tensor, the transformer's output; a reused forward runs nothing at all.

    arXiv 2503.06923, in the variant of its authors' code for HunyuanImage-2.1 (interval 5, order 2, warmup 3).
    """
    return OutputRule(Interval(interval, warmup, last), Taylor(order), residual=False, drop_before=warmup - 2)
