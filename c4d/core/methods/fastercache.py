from c4d.core.caching.forecasters import LinearExtrapolation
from c4d.core.caching.method import method
from c4d.core.caching.rules import ModuleRule, Rule
from c4d.core.methods.pab import PyramidPolicy


@method("fastercache", example="fastercache:weight=0.5")
def fastercache(weight: float, attn: int = 2, low: float = -1.0, high: float = 681.0) -> Rule:
    """FasterCache's dynamic feature reuse: attention outputs go on along their last change on the steps between.

    arXiv 2410.19355; diffusers defaults to range ``attn`` 2, timesteps -1 to 681, and a weight of 0.5. Its reuse of the
    conditional branch for the unconditional one is left out.
    """
    return ModuleRule(PyramidPolicy(attn, low, high), LinearExtrapolation(weight), ("attn",))
