"""MeanCache, arXiv 2601.19961: outputs go on along the mean velocity of the last steps, between chosen steps.

    v(i) = v(i-1) - J (s(i+1) - s(i)),   J = (v(i-k) - u) / (s(i) - s(i-k))       on a reused step
    u = sum_{j=i-k..i-1} v(j) (s(j+1) - s(j)) / (s(i) - s(i-k))
    choose  0 = a_1 < ... < a_B,  a_{B+1} = T,  with the least  sum_m C[a_m][a_{m+1}]

v is the output, s the noise level of a step (0 after the last), and u the mean velocity of the last k steps. Forecasts
count as past velocities; k is chosen for each gap between computed steps, and k = 1 reuses the last one. C is what the
steps between two computed ones cost (``c4d calibrate meancache``), B the ``budget``, T the number of steps. It is for
models that predict a flow.

The paper takes u from the latents, (x(i) - x(i-k)) / (s(i) - s(i-k)), and forecasts the guided velocity. With Euler's
method, which the authors use, that is the same u; with a multistep one (UniPC) latents move by another mean, and what
they say of J can be far off. Here every branch of guidance is forecast by itself, by its own mean: equal where guidance
is linear in the branches, and of use where it is not (Qwen-Image scales what it guides by).

Published sets of steps, with the k of each gap: Qwen-Image, Qwen-Image-2512 and Z-Image, 50 steps, in published.json.
"""

from itertools import pairwise

from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.forecasters import MeanVelocity
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask, whole_number
from c4d.core.caching.rules import OutputRule, Rule
from c4d.core.caching.step_search import least_of_gaps
from c4d.core.types import Policy


@method("meancache", example="meancache:computed=0/1/2/4,orders=1/1/2/3")
def meancache(
    computed: tuple[int, ...] = (),
    orders: tuple[int, ...] = (),
    steps: int | None = None,
    path: str | None = None,
    budget: int | None = None,
) -> Rule:
    """MeanCache: outputs go on along the mean velocity of the last steps, between steps that were chosen for it.

    arXiv 2601.19961; the authors' sets: ``meancache:published=…``. ``computed`` are the computed steps, ``orders`` the
    k of the steps after each of them (1 reuses; the published ones go up to 6). A run of another number of ``steps`` is
    an error. Or give the ``path`` of what ``c4d calibrate meancache`` measured, and the ``budget`` of computed steps,
    which are chosen by it.
    """
    if (path is None) != (budget is None):
        raise ValueError("path and budget go together: a file of c4d calibrate meancache, how many steps to compute")
    if path is not None and budget is not None:
        if computed or orders or steps is not None:
            raise ValueError("path has the computed steps, their orders and the steps of a run: leave those out")
        return _rule(*_planned(path, budget))
    if len(orders) != len(computed):
        raise ValueError(f"{len(computed)} computed steps have {len(orders)} orders; give one for the gap after each")
    if not computed:
        raise ValueError("meancache needs computed= with orders=, or path= with budget=, or published=")
    for k in orders:
        whole_number("an order", k, 1)
    return _rule(StepMask(frozenset(computed), steps), tuple(zip(computed, orders, strict=True)))


def _rule(policy: Policy[bool], orders: tuple[tuple[int, int], ...]) -> Rule:
    return OutputRule(policy, MeanVelocity(orders), residual=False)


def _planned(path: str, budget: int) -> tuple[Policy[bool], tuple[tuple[int, int], ...]]:
    """The steps whose gaps cost least in all, and the k after each."""
    found = CalibrationData.load(path, "meancache", "steps", "costs", "orders")
    total, costs, orders = (found.data[key] for key in ("steps", "costs", "orders"))
    gaps = {(i, j): costs[i][j] for i in range(total) for j in range(i + 1, total + 1)}
    computed = least_of_gaps(gaps, budget, total)
    policy = found.bound(StepMask(frozenset(computed), total))
    return policy, tuple((i, orders[i][j]) for i, j in pairwise([*computed, total]))
