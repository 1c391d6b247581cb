"""DPCache, arXiv 2602.22654: dynamic programming chooses the computed steps, a linear forecast fills the rest.

    minimise  sum_m C[a_{m-1}][a_m][a_{m+1}],  m >= first - 1,  over  a_0 < a_1 < ... < a_{B-1},  with a_B = T
    F(A + x) = F(A) + x (F(A) - F(A')) / (A - A')

C[i][j][k] is the cost of forecasting the steps between j and k from the computed steps i and j. The a_m are the
computed steps, B is ``budget`` and T the number of steps of a run. The ``first`` steps are always computed. F is the
hidden state after the blocks, A the last computed step, A' the one before it, x the number of steps since A.

Published: ``first`` 3. The search is exact here; the authors' planner keeps only one predecessor of a step.
"""

from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.caching.step_search import least_sum


@method("dpcache", example="schedule:computed=0/1/2+taylor")
def dpcache(path: str, budget: int, first: int = 3) -> Rule:
    """DPCache: the hidden state after the blocks is extrapolated between steps that dynamic programming chose.

    arXiv 2602.22654. ``path`` is a file of what leaving steps out costs (``c4d calibrate dpcache``), ``budget`` the
    number of computed steps, of which the leading ``first`` (published: 3).
    """
    found = CalibrationData.load(path, "dpcache", "steps", "costs")
    computed = least_sum(found.data["costs"], budget, first)
    policy = found.bound(StepMask(frozenset(computed), found.data["steps"]))
    return BlocksRule(policy, Taylor(1), residual=False)
