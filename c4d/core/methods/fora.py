from c4d.core.caching.forecasters import Hold
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import CacheMethod, Rule
from c4d.core.types import MODULE_KINDS


def fora(interval: int) -> CacheMethod:
    """FORA: attention and MLP outputs are reused as they are between every ``interval``-th step.

    arXiv 2407.01425. Published for DiT with interval 3 at 250 DDIM steps; no value is published for video models.
    """
    return CacheMethod(f"fora:interval={interval}", (Rule(MODULE_KINDS, Interval(interval), Hold()),))
