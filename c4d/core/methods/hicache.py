"""HiCache, arXiv 2508.16984, and HiCache++ (the package hicache_pp): other forecasts on TaylorSeer's schedule.

    F(A + x) = sum_{i=0..O} D_i s^i H_i(s x) / i!                                    ``hicache``
    H_0(y) = 1,  H_1(y) = 2 y,  H_{n+1}(y) = 2 y H_n(y) - 2 n H_{n-1}(y)

D_i are TaylorSeer's backward differences at the last computed step A, and x is the number of steps since A. s is
``scale`` and O is ``order``. hicache_pp: N = 4, O = 1, E = 2, s = 0.5 (interval N, E steps of warm-up).

    F_{j+1} = M F_j,  M p_k = l_k p_k,  F(A + x) = sum_k b_k l_k^(x / h) p_k         ``dmd``

M is fitted to the last ``window`` features F_j, as far as they are evenly spaced, h steps apart. Singular values up to
1e-4 of the largest are cut. b_k fit the newest feature. The window is 5 in hicache_pp 1.3 and 6 in cache-dit 1.5.3.
"""

from c4d.core.caching.feature_forecasters import DynamicModes
from c4d.core.caching.finite_differences import Hermite
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import ModuleRule, OutputRule, Rule


@method("hicache", example="hicache:interval=4,order=2")
def hicache(interval: int, order: int = 1, warmup: int = 1, scale: float = 0.5, last: int = 0) -> Rule:
    """HiCache: TaylorSeer with scaled Hermite polynomials in place of powers, which damp the forecast.

    arXiv 2508.16984; hicache_pp defaults to interval 4, order 1, warmup 2, scale 0.5 (there at the guided output, here
    at attention and MLP outputs as in the paper; @output moves it).
    """
    return ModuleRule(Interval(interval, warmup, last), Hermite(order, scale=scale), drop_before=warmup - 2)


@method("dmd", example="dmd:interval=4")
def dmd(interval: int, warmup: int = 1, window: int = 6, rank: int | None = None, last: int = 0) -> Rule:
    """HiCache++: the output forecast by dynamic mode decomposition of the last computed ones, once they are even.

    hicache_pp 1.3 (window 5; cache-dit 1.5.3: 6), at the output of each branch; TaylorSeer of order 1 until four
    evenly spaced features are there. One wait for the device after each computed step.
    """
    return OutputRule(Interval(interval, warmup, last), DynamicModes(window, rank), residual=False)
