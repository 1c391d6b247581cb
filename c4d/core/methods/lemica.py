from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, Rule


@method("lemica", example="lemica:computed=0/3/7")
def lemica(computed: tuple[int, ...], steps: int | None = None) -> Rule:
    """LeMiCa's schedules: the residual is reused between steps that were chosen for the least worst damage.

    arXiv 2511.00090. The authors' own lists: ``lemica:published=…`` (for 50 steps, image-to-video for 40); for another
    model, ``c4d.core.caching.step_search.least_worst`` chooses ``computed`` from measured errors. A run of another
    number of ``steps`` is an error.
    """
    return BlocksRule(StepMask(frozenset(computed), steps), Reuse())
