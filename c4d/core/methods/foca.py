from c4d.core.caching.forecasters import FoCa
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import CacheMethod, Rule
from c4d.core.types import MODULE_KINDS


def foca(interval: int, warmup: int = 1) -> CacheMethod:
    """FoCa: attention and MLP outputs integrated from the last computed ones by Heun's rule, forecasts among them.

    arXiv 2508.16211; published at intervals 5 and 8 on FLUX. Slopes are taken over the steps between features, which
    cache-dit's port leaves out. It keeps four features of every module.
    """
    return CacheMethod(
        f"foca:interval={interval},warmup={warmup}", (Rule(MODULE_KINDS, Interval(interval, warmup), FoCa()),)
    )
