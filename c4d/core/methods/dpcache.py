from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import CacheMethod, Rule
from c4d.core.caching.step_search import least_sum
from c4d.core.methods.profile import profile
from c4d.core.types import STACK


def dpcache(path: str, budget: int, first: int = 3) -> CacheMethod:
    """DPCache: the hidden state after the blocks is extrapolated between steps that dynamic programming chose.

    arXiv 2602.22654. ``path`` is a profile of what leaving steps out costs (``python -m bench.learn dpcache``),
    ``budget`` the number of computed steps, of which the leading ``first`` (published: 3).
    """
    found = profile(path, "dpcache", "costs")
    computed = least_sum(found["costs"], budget, first)
    rule = Rule((STACK,), StepMask(frozenset(computed), found["steps"]), Taylor(1), base="zero")
    return CacheMethod(f"dpcache:path={path},budget={budget},first={first}", (rule,))
