"""LeMiCa, arXiv 2511.00090: the residual is reused between steps whose worst gap does the least damage.

    h_out = h_in + R(A)                       on a reused step
    choose  0 = a_1 < ... < a_B = T-1  so that the E[a_m][a_{m+1}], largest first, are smallest

h_in and h_out are the hidden states before and after the blocks, and R = h_out - h_in. A is the last computed step.
E[i][j] is the error of the result if the steps between i and j reuse R(i). B is the number of computed steps of T. Two
choices are compared by their worst error first, then by their second worst, and so on.

Published: the authors' sets for Wan 2.1, Qwen-Image and FLUX.1-dev (50 steps, image-to-video 40) in published.json.
"""

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
