"""FasterCache, arXiv 2410.19355: attention outputs go on along their last change, and the unconditional call is made
of the conditional one and their last difference. Its two halves, ``fastercache`` and ``cfg-cache``; both at once are
``fastercache:weight=0.5+cfg-cache``.

    low < t < high and s mod N > 0:  F(s) = F(q) + w (F(q) - F(p))
    otherwise:                       F(s) is computed

F is the output of an attention. t is the scheduler's timestep and s the step of the run. p < q are the steps of the
last two features, forecasts among them; a single one is reused as it is. N is ``attn`` and w is ``weight``. In the
paper w grows over the run (eq. 4); here it is one number.

Defaults of diffusers: N = 2, window -1 to 681, w = 0.5.

    low < t < high and s mod N > 0:  u(s) = c(s) + D(s),  D(s) = a L D(q) + b (1 - L) D(q)     ``cfg-cache``
    otherwise:                       u(s) is computed, D(s) = u(s) - c(s)

u is the output of the call without condition, c that of the conditional one in the same step, and q the step before. L
keeps the Fourier waves of a picture up to a fifth of its shorter side. a is ``low_weight`` where 99 < t < 901, b is
``high_weight`` where t < 301, and both are 1 elsewhere; they are applied once more on each reused step. All of this is
as in diffusers (eq. 9 and 10 of the paper), where the two calls of a step are always one batch.

Defaults of diffusers: N = 5, window -1 to 641, a = b = 1.1.
"""

from c4d.core.caching.feature_forecasters import GuidanceWaves
from c4d.core.caching.forecasters import LinearExtrapolation
from c4d.core.caching.method import method
from c4d.core.caching.rules import GuidanceRule, ModuleRule, Rule
from c4d.core.methods.pab import PyramidPolicy


@method("fastercache", example="fastercache:weight=0.5")
def fastercache(weight: float, attn: int = 2, low: float = -1.0, high: float = 681.0) -> Rule:
    """FasterCache's dynamic feature reuse: attention outputs go on along their last change on the steps between.

    arXiv 2410.19355; diffusers defaults to range ``attn`` 2, timesteps -1 to 681, and a weight of 0.5. Its reuse of the
    conditional branch for the unconditional one is ``cfg-cache``.
    """
    return ModuleRule(PyramidPolicy(attn, low, high), LinearExtrapolation(weight), ("attn",))


@method("cfg-cache", example="cfg-cache:high=801")
def cfg_cache(
    interval: int = 5, low: float = -1.0, high: float = 641.0, low_weight: float = 1.1, high_weight: float = 1.1
) -> Rule:
    """CFG-Cache: the call without condition is made of the conditional one and of what they differed by last.

    arXiv 2410.19355, the second half of FasterCache, with the defaults of diffusers: it runs on every ``interval``-th
    step, and where the timestep is not between ``low`` and ``high``. The difference grows by ``low_weight`` and
    ``high_weight`` in low and high frequencies. Beside another method: ``taylorseer:interval=3+cfg-cache``; another
    forecast of the difference: ``cfg-cache+taylor:order=1``. It needs calls that pipelines name, the conditional one
    first; or both in one batch, of which the model's spec says which half is which.
    """
    return GuidanceRule(PyramidPolicy(interval, low, high), GuidanceWaves(low_weight, high_weight))
