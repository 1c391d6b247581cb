"""FORA, arXiv 2407.01425: the outputs of attention and MLP are reused at a fixed interval.

    s mod N = 0:  F(s) is computed
    otherwise:    F(s) = F(A)

F is the output of a module, before its gate. s is the step, A the last computed step, N the ``interval``.

Published: N = 3, for DiT-XL/2 at 250 DDIM steps.
"""

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import ModuleRule, Rule


@method("fora", example="fora:interval=3")
def fora(interval: int, last: int = 0) -> Rule:
    """FORA: attention and MLP outputs are reused as they are between every ``interval``-th step.

    arXiv 2407.01425. Published for DiT with interval 3 at 250 DDIM steps; no value is published for video models.
    """
    return ModuleRule(Interval(interval, last=last), Reuse())
