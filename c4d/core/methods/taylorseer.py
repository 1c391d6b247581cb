from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import CacheMethod, Rule
from c4d.core.types import MODULE_KINDS, OUTPUT


def taylorseer(interval: int, order: int = 1, warmup: int = 1) -> CacheMethod:
    """TaylorSeer: attention and MLP outputs forecast by a Taylor series of backward differences.

    arXiv 2503.06923. Published values: ``taylorseer:published=…``. It keeps order + 1 features of every module: see
    ``Report.peak_bytes``. Over noise levels, or with smoothed differences: ``+taylor:over=sigma``, …
    """
    rule = Rule(MODULE_KINDS, Interval(interval, warmup), Taylor(order), start=warmup - 2)
    return CacheMethod(f"taylorseer:interval={interval},order={order},warmup={warmup}", (rule,))


def taylorseer_lite(interval: int, order: int = 1, warmup: int = 1) -> CacheMethod:
    """TaylorSeer-Lite: the same forecast of one tensor, the transformer's output; a reused pass runs nothing at all.

    arXiv 2503.06923, in the variant of its authors' code for HunyuanImage-2.1 (interval 5, order 2, warmup 3).
    """
    rule = Rule((OUTPUT,), Interval(interval, warmup), Taylor(order), base="zero", start=warmup - 2)
    return CacheMethod(f"taylorseer-lite:interval={interval},order={order},warmup={warmup}", (rule,))
