"""MeanCache, arXiv 2601.19961: outputs go on along the mean velocity of the last steps, between chosen steps.

    v(i) = v(i-1) - J (s(i+1) - s(i)),   J = (v(i-k) - u) / (s(i) - s(i-k))       on a reused step
    u = sum_{j=i-k..i-1} v(j) (s(j+1) - s(j)) / (s(i) - s(i-k))

v is the output, s the noise level of a step (0 after the last), and u the mean velocity of the last k steps. Forecasts
count as past velocities; k is chosen for each gap between computed steps, and k = 1 reuses the last one. It is for
models that predict a flow.

The paper takes u from the latents, (x(i) - x(i-k)) / (s(i) - s(i-k)), and forecasts the guided velocity. With Euler's
method, which the authors use, that is the same u; with a multistep one (UniPC) latents move by another mean, and what
they say of J can be far off. Here every branch of guidance is forecast by itself, by its own mean: equal where guidance
is linear in the branches, and of use where it is not (Qwen-Image scales what it guides by).

Published sets of steps, with the k of each gap: Qwen-Image, Qwen-Image-2512 and Z-Image, 50 steps, in published.json.
"""

from c4d.core.caching.forecasters import MeanVelocity
from c4d.core.caching.method import method
from c4d.core.caching.policies import StepMask, whole_number
from c4d.core.caching.rules import OutputRule, Rule


@method("meancache", example="meancache:computed=0/1/2/4,orders=1/1/2/3")
def meancache(computed: tuple[int, ...], orders: tuple[int, ...], steps: int | None = None) -> Rule:
    """MeanCache: outputs go on along the mean velocity of the last steps, between steps that were chosen for it.

    arXiv 2601.19961; the authors' sets: ``meancache:published=…``. ``computed`` are the computed steps, ``orders`` the
    k of the steps after each of them (1 reuses; the published ones go up to 6). A run of another number of ``steps`` is
    an error.
    """
    if len(orders) != len(computed):
        raise ValueError(f"{len(computed)} computed steps have {len(orders)} orders; give one for the gap after each")
    for k in orders:
        whole_number("an order", k, 1)
    forecast = MeanVelocity(tuple(zip(computed, orders, strict=True)))
    return OutputRule(StepMask(frozenset(computed), steps), forecast, residual=False)
