from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import ModuleRule, Rule


@method("fora", example="fora:interval=3")
def fora(interval: int) -> Rule:
    """FORA: attention and MLP outputs are reused as they are between every ``interval``-th step.

    arXiv 2407.01425. Published for DiT with interval 3 at 250 DDIM steps; no value is published for video models.
    """
    return ModuleRule(Interval(interval), Reuse())
