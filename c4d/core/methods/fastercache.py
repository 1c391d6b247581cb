"""FasterCache, arXiv 2410.19355: attention outputs go on along their last change (dynamic feature reuse).

    low < t < high and s mod N > 0:  F(s) = F(q) + w (F(q) - F(p))
    otherwise:                       F(s) is computed

F is the output of an attention. t is the scheduler's timestep and s the step of the run. p < q are the steps of the
last two features, forecasts among them; a single one is reused as it is. N is ``attn`` and w is ``weight``. In the
paper w grows over the run (eq. 4); here it is one number.

Defaults of diffusers: N = 2, window -1 to 681, w = 0.5.
"""

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
