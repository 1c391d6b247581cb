"""L2P, arXiv 2604.26365: the hidden state after the blocks is a learned combination of the last computed ones.

    F(s) = sum_j w[s][j] F(A_j)

s is the step, and the A_j are the last computed steps before it. Each reused step has its own weights w[s]. They have
the least squared error over recorded runs. Schedule and weights are read from a profile, which ``bench.learn l2p``
writes.

No published profile is part of this package.
"""

from c4d.core.caching.forecasters import LearnedWeights
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.methods.learned import learned


@method("l2p", example="schedule:computed=0/1/2+taylor")
def l2p(path: str) -> Rule:
    """L2P: the hidden state after the blocks as a learned combination of the last computed ones, step by step.

    arXiv 2604.26365. ``path`` is a profile (``python -m bench.learn l2p``) with its schedule and, for every step
    between, the weights of least squared error over recorded runs.
    """
    found = learned(path, "l2p", "computed", "weights")
    weights = tuple((int(step), tuple(row)) for step, row in sorted(found["weights"].items(), key=lambda x: int(x[0])))
    policy = StepMask(frozenset(found["computed"]), found["steps"])
    return BlocksRule(policy, LearnedWeights(weights), residual=False)
