"""L2P, arXiv 2604.26365: the hidden state after the blocks is a learned combination of the last computed ones.

    F(s) = sum_j w[s][j] F(A_j)

s is the step, and the A_j are the last computed steps before it. Each reused step has its own weights w[s]. They have
the least squared error over recorded runs. Schedule and weights are read from a file, which ``c4d calibrate
l2p`` writes.

No published weights are part of this package.
"""

from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.forecasters import LearnedWeights
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, Rule


@method("l2p", example="schedule:computed=0/1/2+taylor")
def l2p(path: str) -> Rule:
    """L2P: the hidden state after the blocks as a learned combination of the last computed ones, step by step.

    arXiv 2604.26365. ``path`` is a file (``c4d calibrate l2p``) with its schedule and, for every step between, the
    weights of least squared error over recorded runs.
    """
    found = CalibrationData.load(path, "l2p", "steps", "computed", "weights")
    rows = sorted(found.data["weights"].items(), key=lambda each: int(each[0]))
    weights = tuple((int(step), tuple(row)) for step, row in rows)
    policy = found.bound(StepMask(frozenset(found.data["computed"]), found.data["steps"]))
    return BlocksRule(policy, LearnedWeights(weights), residual=False)
