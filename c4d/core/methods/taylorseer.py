from c4d.core.forecast import Taylor
from c4d.core.policy import Interval
from c4d.core.types import MODULE_KINDS, OUTPUT, CacheMethod, Rule


def taylorseer(interval: int, order: int = 1, warmup: int = 1) -> CacheMethod:
    """TaylorSeer: attention and MLP outputs forecast by a Taylor series of backward differences.

    arXiv 2503.06923. Published (interval, order, warmup): Wan 2.1 and HunyuanVideo 5, 1, 1; HunyuanVideo's diffusers
    port 6, 1, 3. It keeps order + 1 features of every module: see ``c4d.core.trace.Report.peak_bytes``.
    """
    rule = Rule(MODULE_KINDS, Interval(interval, warmup), Taylor(order, start=warmup - 2))
    return CacheMethod(f"taylorseer:interval={interval},order={order},warmup={warmup}", (rule,))


def taylorseer_lite(interval: int, order: int = 1, warmup: int = 1) -> CacheMethod:
    """TaylorSeer-Lite: the same forecast of one tensor, the transformer's output; a reused pass runs nothing at all.

    arXiv 2503.06923, in the variant of its authors' code for HunyuanImage-2.1 (interval 5, order 2, warmup 3).
    """
    rule = Rule((OUTPUT,), Interval(interval, warmup), Taylor(order, start=warmup - 2), base="zero")
    return CacheMethod(f"taylorseer-lite:interval={interval},order={order},warmup={warmup}", (rule,))
