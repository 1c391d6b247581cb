from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.caching.step_search import least_sum
from c4d.core.methods.profile import profile


@method("dpcache", example="schedule:computed=0/1/2+taylor")
def dpcache(path: str, budget: int, first: int = 3) -> Rule:
    """DPCache: the hidden state after the blocks is extrapolated between steps that dynamic programming chose.

    arXiv 2602.22654. ``path`` is a profile of what leaving steps out costs (``python -m bench.learn dpcache``),
    ``budget`` the number of computed steps, of which the leading ``first`` (published: 3).
    """
    found = profile(path, "dpcache", "costs")
    computed = least_sum(found["costs"], budget, first)
    return BlocksRule(StepMask(frozenset(computed), found["steps"]), Taylor(1), residual=False)
