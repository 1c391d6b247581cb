"""BudCache, arXiv 2606.13496: the residual is reused between steps that were searched for, under a budget.

    h_out(s) = h_in(s) + R(A)                      on a reused step
    choose the B computed steps of T, 0 among them, by the loss  |x_T - x'_T|^2 of a single prompt

h_in and h_out are the hidden states before and after the blocks, R = h_out - h_in, and A is the last computed step. x_T
are the last latents of the uncached run, x'_T those of the cached one. The search anneals, then climbs (``c4d calibrate
budcache``). The authors' second stage, which learns other noise levels, is left out: those are the sampler's.

No set of steps is published beside the paper's figures.
"""

from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, Rule


@method("budcache", example="budcache:computed=0/2/5")
def budcache(computed: tuple[int, ...] = (), steps: int | None = None, path: str | None = None) -> Rule:
    """BudCache: the residual is reused between steps that were searched for on one prompt, under a budget.

    arXiv 2606.13496. ``computed`` are the steps, of a run of so many ``steps`` (another is an error); or give the
    ``path`` of what ``c4d calibrate budcache`` found on your model.
    """
    if (path is None) is not bool(computed):
        raise ValueError("budcache needs either computed= (with steps=) or path=, the file of c4d calibrate budcache")
    if path is None:
        return BlocksRule(StepMask(frozenset(computed), steps), Reuse())
    if steps is not None:
        raise ValueError(f"path has the steps of a run: leave steps={steps} out")
    found = CalibrationData.load(path, "budcache", "steps", "computed")
    return BlocksRule(found.bound(StepMask(frozenset(found.data["computed"]), found.data["steps"])), Reuse())
