"""FoCa, arXiv 2508.16211: features are integrated over the steps like an ODE, by Heun's rule.

    F(A + x) = F(A) + r / 2 (F' + f')
    F' = (F(A) - F(B)) / (A - B)              slope of the last two computed features
    f' = (F(q) - F(p)) / (q - p)              slope of the last two features of any kind, p < q
    r = x for x <= 3, and 9 / x beyond

A is the last computed step, B the one before it, and x the number of steps since A. Forecasts count in f', not in F'. A
module with one computed feature reuses it. Computed steps are those of TaylorSeer.

Published: ``interval`` 5 and 8 on FLUX.
"""

from c4d.core.caching.forecasters import FoCa
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import ModuleRule, Rule


@method("foca", example="foca:interval=5")
def foca(interval: int, warmup: int = 1, last: int = 0) -> Rule:
    """FoCa: attention and MLP outputs integrated from the last computed ones by Heun's rule, forecasts among them.

    arXiv 2508.16211; published at intervals 5 and 8 on FLUX. Slopes are taken over the steps between features, which
    cache-dit's port leaves out. It keeps four features of every module.
    """
    return ModuleRule(Interval(interval, warmup, last), FoCa())
