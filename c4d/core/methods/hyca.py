"""HyCa, arXiv 2510.04188: every channel of the hidden state is forecast by the solver that is best for its kind.

    offline:           K-means of the channels by indicators of how they move over the steps
                       solver(cluster) = the candidate with the least error over the steps between computed ones
    on a reused step:  F_d(A + x) = sum_j w_j(solver of d) F_d(A_j)
    computed steps:    0 .. E-1, then E-1+N, E-1+2N, ...

F is the hidden state after the blocks, d one of its channels, A the last computed step, A_j the last few of them, and x
the number of steps since A. N is ``interval`` and E is ``warmup``. Candidates are reuse, Taylor series, the two-step
rule of Adams and Bashforth and backward differentiation of order 2. Which channel has which is read from a file, that
``c4d calibrate hyca`` writes.

The authors' code is not public. What was found of the paper leaves open, and is decided here: F is taken after all
blocks (not at each module), as it is, not less what came to them; E is 1, as TaylorSeer has it by default; the forms of
the candidates, which ``c4d methods`` lists as forecasters; and how channels are clustered and solvers compared, which
``c4d/calibrate/published/hyca.py`` says.

Published speeds, without settings: 5.55x on FLUX, 5.56x on HunyuanVideo, 6.24x on Qwen-Image.
"""

from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.feature_forecasters import ByChannel
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import BlocksRule, Rule


@method("hyca", example="taylorseer-lite:interval=3@blocks")
def hyca(path: str, interval: int, warmup: int = 1, last: int = 0) -> Rule:
    """HyCa: the hidden state after the blocks, each channel of it forecast by the solver that is best for its kind.

    arXiv 2510.04188. ``path`` is a file (``c4d calibrate hyca``) with the solver of every channel. Computed steps are
    those of TaylorSeer.
    """
    found = CalibrationData.load(path, "hyca", "solvers", "channels")
    forecast = ByChannel(found.words("solvers"), found.places("channels"))
    policy = found.bound(Interval(interval, warmup, last))
    return BlocksRule(policy, forecast, residual=False, drop_before=warmup - 2)
