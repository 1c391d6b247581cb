"""DBCache (dual block cache) of cache-dit, github.com/vipshop/cache-dit: First-Block Cache with blocks at both ends.

    d = sum |r(s) - r(A)| / sum |r(A)|;   d <= threshold reuses
    h_B(s) = h_F(s) + (h_B(A) - h_F(A))            on a reused step

h_F is the hidden state after the first ``Fn`` blocks, h_B that before the last ``Bn``, both of which always run. r =
h_F - h_in is what the first ones add, s the step and A the last computed one. This is ``first-block`` under the names,
and with the defaults, of cache-dit's ``DBCacheConfig``: Fn_compute_blocks, Bn_compute_blocks, residual_diff_threshold
(``threshold``), max_warmup_steps (``warmup``), max_cached_steps, max_continuous_cached_steps, steps_computation_mask
(``scm``) and steps_computation_policy (``scm_policy``). Its calibrators are forecasters: ``+taylor:order=1``.

Defaults (cache-dit 1.5.3): Fn 8, Bn 0, threshold 0.08, 8 steps of warm-up, no limits, no mask, "dynamic".
"""

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import Bounded, StepMask, Threshold
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Signal

SCM_POLICIES = ("dynamic", "static")


@method("dbcache", example="dbcache:Fn=1,threshold=0.1,warmup=1")
def dbcache(
    Fn: int = 8,
    Bn: int = 0,
    threshold: float = 0.08,
    warmup: int = 8,
    max_cached_steps: int | None = None,
    max_continuous_cached_steps: int | None = None,
    scm: str | None = None,
    scm_policy: str = "dynamic",
) -> Rule:
    """DBCache of cache-dit by its own names: the first ``Fn`` and last ``Bn`` blocks always run, the others if the
    first ones' residual moved.

    github.com/vipshop/cache-dit, with the defaults of its 1.5.3. ``scm`` is a mask of steps such as 1110100001, one
    digit a step: 1 is computed, 0 may be reused. With ``scm_policy`` dynamic the threshold decides about those; with
    static they are all reused, nothing is measured, and the limits have no effect. A mask that is computed for less
    than ``warmup`` steps at its beginning shortens that (as there). A run of another length is an error (there the
    threshold alone goes on).
    """
    if scm_policy not in SCM_POLICIES:
        raise ValueError(f"unknown scm_policy {scm_policy!r}: known are {', '.join(SCM_POLICIES)}")
    if warmup < 1:
        raise ValueError(f"warmup must be a whole number of at least 1, got {warmup}")
    if scm is None and scm_policy == "static":
        raise ValueError("scm_policy=static needs a mask of steps, as scm=1110100001")
    mask = None if scm is None else mask_of(scm)
    if mask is not None and scm_policy == "static":
        return BlocksRule(mask, Reuse(), first_blocks=Fn, last_blocks=Bn)
    if scm is not None:
        warmup = min(warmup, len(scm) - len(scm.lstrip("1")))
    most = max_continuous_cached_steps, max_cached_steps
    policy = Bounded(Threshold(threshold, Signal.FIRST_BLOCKS), warmup, 0, *most, mask)
    return BlocksRule(policy, Reuse(), first_blocks=Fn, last_blocks=Bn)


def mask_of(scm: str) -> StepMask:
    """The steps of a mask of ones and zeros, for a run of just so many."""
    if not scm.startswith("1") or set(scm) - {"0", "1"}:
        raise ValueError(f"scm is a digit a step, 1 computed and 0 reused, and begins with 1, as 1110100001; got {scm}")
    return StepMask(frozenset(i for i, digit in enumerate(scm) if digit == "1"), len(scm))
