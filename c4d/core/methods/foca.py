from c4d.core.caching.forecasters import FoCa
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import ModuleRule, Rule


@method("foca", example="foca:interval=5")
def foca(interval: int, warmup: int = 1) -> Rule:
    """FoCa: attention and MLP outputs integrated from the last computed ones by Heun's rule, forecasts among them.

    arXiv 2508.16211; published at intervals 5 and 8 on FLUX. Slopes are taken over the steps between features, which
    cache-dit's port leaves out. It keeps four features of every module.
    """
    return ModuleRule(Interval(interval, warmup), FoCa())
