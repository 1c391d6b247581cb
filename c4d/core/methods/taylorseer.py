from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import ModuleRule, OutputRule, Rule


@method("taylorseer", example="taylorseer:interval=5,order=2,warmup=3")
def taylorseer(interval: int, order: int = 1, warmup: int = 1) -> Rule:
    """TaylorSeer: attention and MLP outputs forecast by a Taylor series of backward differences.

    arXiv 2503.06923. Published values: ``taylorseer:published=…``. It keeps order + 1 features of every module: see
    ``Report.peak_bytes``. Over noise levels, or with smoothed differences: ``+taylor:over=sigma``, …
    """
    return ModuleRule(Interval(interval, warmup), Taylor(order), drop_before=warmup - 2)


@method("taylorseer-lite", example="taylorseer-lite:interval=5")
def taylorseer_lite(interval: int, order: int = 1, warmup: int = 1) -> Rule:
    """TaylorSeer-Lite: the same forecast of one tensor, the transformer's output; a reused pass runs nothing at all.

    arXiv 2503.06923, in the variant of its authors' code for HunyuanImage-2.1 (interval 5, order 2, warmup 3).
    """
    return OutputRule(Interval(interval, warmup), Taylor(order), residual=False, drop_before=warmup - 2)
