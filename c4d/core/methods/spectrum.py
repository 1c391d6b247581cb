"""Spectrum, arXiv 2603.01623: a ridge regression on Chebyshev polynomials forecasts the hidden state over the run.

    F(s) = w x(s) (X'X + l I)^-1 X'F + (1 - w) (F(A) + (s - A) / (A - A') (F(A) - F(A')))
    x(s) = (T_0, ..., T_M) at 2 s / T - 1;   T_0 = 1,  T_1(u) = u,  T_{m+1}(u) = 2 u T_m(u) - T_{m-1}(u)
    computed: the first E steps, then after every N - 1 reused ones;   N = floor(n),  n = n + a with each of them

F is the hidden state after the blocks, X and F its rows at the last K computed steps, A the last and A' the one before
it. M is ``degree``, l ``ridge``, w ``weight``, T the steps of the run, E ``warmup``, n begins at ``window``, a is
``alpha`` and K ``features``. A forecast of features that do not change is a little less than they are: the ridge is on
T_0 too. What is held grows with the computed steps, up to K hidden states for each branch.

Published (github.com/hanjq17/Spectrum: w, lam, m, window_size, flex_window): M 4, l 0.1, w 1, n 2, E 5, K 100; with a
0.75 14 of 50 steps are computed, with 3 10. Since then its authors recommend w between 0.5 and 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from c4d.core.caching.forecasters import Chebyshev
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, REUSE, positive, whole_number
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Action, Measured, Policy, RelativeL1, Signal, Step


@dataclass(frozen=True)
class GrowingInterval(Policy["tuple[int, float] | None"]):
    """The first ``warmup`` steps and the ``last`` ones; between them after every N - 1 reused ones.

    N is the whole part of ``window``, to which every computed step after the warm-up adds ``alpha``.
    """

    window: float
    alpha: float
    warmup: int
    last: int = 0

    def __post_init__(self) -> None:
        positive("window", self.window)
        if isinstance(self.alpha, bool) or not 0.0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be a finite number of at least 0, got {self.alpha!r}")
        if self.window < 1.0:
            raise ValueError(f"window must be at least 1, which computes every step, got {self.window!r}")
        whole_number("warmup", self.warmup, 1)
        whole_number("last", self.last, 0)

    def init(self) -> tuple[int, float] | None:
        return None  # how many steps were reused in a row, and the window now

    def decide(
        self, state: tuple[int, float] | None, step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> tuple[Action, tuple[int, float]]:
        reused, window = state or (0, self.window)
        if state is None or step.index < self.warmup or step.index >= step.total - self.last:
            return COMPUTE, (0, window)
        return (COMPUTE, (0, window + self.alpha)) if reused + 1 >= int(window) else (REUSE, (reused + 1, window))

    def idle(self, total: int, measured: Measured) -> str:
        if self.warmup + self.last >= total:
            return f"the first {self.warmup} and last {self.last} steps are always computed, and the run has {total}"
        return f"window={self.window:g} computes every step, and alpha={self.alpha:g} did not widen it enough"


@method("spectrum", example="spectrum:weight=0.5")
def spectrum(
    window: float = 2.0,
    alpha: float = 0.75,
    warmup: int = 5,
    degree: int = 4,
    ridge: float = 0.1,
    weight: float = 1.0,
    features: int = 100,
    last: int = 0,
) -> Rule:
    """Spectrum: the hidden state after the blocks forecast by Chebyshev polynomials fitted to all computed ones.

    arXiv 2603.01623, with its published defaults; alpha 3 computes 10 of 50 steps. Its authors recommend a weight of
    0.5 to 1 since. It keeps up to ``features`` hidden states a branch: see ``Report.peak_bytes``.
    """
    policy = GrowingInterval(window, alpha, warmup, last)
    return BlocksRule(policy, Chebyshev(degree, ridge, weight, features), residual=False)
