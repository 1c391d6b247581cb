"""Policies as tables: schedules written out, one letter a step."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from c4d.core.caching.curves import of_ratios
from c4d.core.caching.policies import Accumulate, Bounded, Interval, StepMask, Threshold
from c4d.core.methods.magcache import MagCachePolicy, published_curves
from c4d.core.methods.pab import AfterTimesteps, PyramidPolicy
from c4d.core.methods.spectrum import GrowingInterval
from c4d.core.methods.teacache import published_fits
from c4d.core.text.grammar import parse
from c4d.core.types import Action, RelativeL1, Signal, Step

HEAD, TIME = Signal.FIRST_BLOCKS, Signal.TIME_EMBEDDING
POLICIES = [
    Interval(3),
    StepMask(frozenset({0, 4})),
    Accumulate(0.2, TIME),
    Threshold(0.2),
    Bounded(Accumulate(0.2, TIME), 2, 1, 2),
    Bounded(Interval(4), 1, 1),
    Bounded(Threshold(0.2), 1, 0, 2, 3, StepMask(frozenset({0, 1, 4}))),
    GrowingInterval(2.0, 0.75, 2),
]


def play(policy, total, ratios=None, skip=()):
    """The trace over ``total`` steps; ``ratios`` are the measured changes, ``skip`` steps that never happen."""
    state, line = policy.init(), ""
    for i in range(total):
        if i in skip:
            line += "."
            continue
        seen = {p: RelativeL1(ratios[i], 1.0) for p in policy.signals} if ratios and i else {}
        action, state = policy.decide(state, Step(i, total, "cond"), seen)
        line += "C" if action is Action.COMPUTE else "r"
    return line


def full(line):
    return [i for i, letter in enumerate(line) if letter == "C"]


@pytest.mark.parametrize(
    ("warmup", "interval", "count", "steps"),
    [
        (3, 6, 10, [0, 1, 2, 8, 14, 20, 26, 32, 38, 44]),  # FLUX, Qwen-Image
        (1, 5, 10, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]),  # Wan 2.1, HunyuanVideo
        (2, 4, 14, [0, 1, *range(5, 50, 4)]),  # DiT
        (3, 5, 12, [0, 1, 2, 7, 12, 17, 22, 27, 32, 37, 42, 47]),  # HunyuanImage-2.1
        (3, 9, 8, [0, 1, 2, 11, 20, 29, 38, 47]),  # FreqCa
    ],
)
def test_interval_has_the_published_schedule(warmup, interval, count, steps):
    line = play(Interval(interval, warmup), 50)
    assert full(line) == steps and len(steps) == count


def test_interval_one_computes_everything_and_gaps_are_made_good():
    assert play(Interval(1), 6) == "CCCCCC"
    assert play(Interval(3), 9, skip=(3, 4)) == "Crr..CrrC"


@pytest.mark.parametrize(("last", "line"), [(0, "CrrCrrCrrCrr"), (1, "CrrCrrCrrCrC"), (2, "CrrCrrCrrCCC")])
def test_an_interval_may_compute_the_last_steps_too(last, line):
    assert play(Interval(3, last=last), 12) == line
    for name in ("taylorseer", "taylorseer-lite", "fora", "foca", "hicache", "dmd", "freqca"):
        policy = parse(f"{name}:interval=3,last={last}{',warmup=1' if name == 'freqca' else ''}").rules[0].policy
        assert play(policy, 12) == line
    with pytest.raises(ValueError, match="last must be a whole number of at least 0, got -1"):
        Interval(3, last=-1)


@pytest.mark.parametrize(
    ("alpha", "steps"),
    [(0.75, [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46]), (3.0, [0, 1, 2, 3, 4, 6, 11, 19, 30, 44])],
)
def test_spectrum_has_the_published_schedule(alpha, steps):
    assert full(play(GrowingInterval(2.0, alpha, 5), 50)) == steps
    assert full(play(GrowingInterval(2.0, alpha, 5, 1), 50)) == sorted({*steps, 49})


def test_step_mask():
    assert play(StepMask(frozenset({0, 1, 4})), 6) == "CCrrCr"


@pytest.mark.parametrize("total", [5, 7])
def test_a_step_mask_for_so_many_steps_refuses_other_runs(total):
    policy = StepMask(frozenset({0, 3}), made_for=6)
    assert play(policy, 6) == "CrrCrr"
    with pytest.raises(ValueError, match=f"made for 6 steps, and the run has {total}"):
        play(policy, total)


def test_a_step_mask_tells_its_first_step_beyond_the_run():
    policy = StepMask(frozenset({0, 5}))
    assert policy.remark(6) is None
    assert policy.remark(5) == "listed as computed, but beyond this run of 5 steps (0 to 4): 5"


def test_accumulate_sums_until_the_threshold():
    assert play(Accumulate(0.25, TIME), 8, [0, 0.1, 0.1, 0.1, 0.1, 0.3, 0.05, 0.05]) == "CrrCrCrr"
    #                                              .1  .2  .3*  .1  .4*  .05  .1
    assert play(Accumulate(0.3, TIME), 4, [0, 0.1, 0.1, 0.1]) == "Crrr"[:3] + "C"  # not below: 0.30000000000000004
    assert play(Accumulate(0.5, TIME), 4, [0, 0.25, 0.25, 0.25]) == "CrCr"  # at the threshold, to the bit


def test_accumulate_rescales_with_the_highest_power_first_and_never_shrinks():
    policy = Accumulate(1.0, TIME, (2.0, 0.0, 0.5))  # 2 x^2 + 0.5
    assert play(policy, 4, [0, 0.4, 0.4, 0.0]) == "CrCr"  # .82, 1.64, .5
    falling = Accumulate(1.0, TIME, (-1.0, 0.0))
    assert play(falling, 5, [0, 9.0, 9.0, 9.0, 9.0]) == "Crrrr"
    state, step = falling.init(), Step(1, 5, "cond")
    for _ in range(3):
        _, state = falling.decide(state, step, {TIME: RelativeL1(9.0, 1.0)})
    assert state == 0.0


@pytest.mark.parametrize("fit", published_fits())
def test_a_published_fit_ends_where_it_first_falls_below_0(fit):
    """At the first of its roots where it falls, a thousandth late at most; without any it has no end."""
    coefficients = published_fits()[fit]["coefficients"]
    roots = [root.real for root in np.roots(coefficients) if abs(root.imag) < 1e-9 and root.real > 0.0]
    falls = sorted(root for root in roots if np.polyval(np.polyder(coefficients), root) < 0.0)
    limit = Accumulate(1.0, TIME, tuple(coefficients)).limit
    assert 0.0 < limit - falls[0] <= 0.001 if falls else limit == math.inf
    assert Accumulate(1.0, TIME, tuple(coefficients), clamped=False).limit == math.inf


def test_the_fit_that_reaches_furthest():
    """Beyond a change of 1, where the search has to go on."""
    fit = Accumulate(1e9, TIME, tuple(published_fits()["lumina-image-2.0-v2"]["coefficients"]))
    assert fit.limit == 1.208 and play(fit, 3, [0, 1.207, 1.209]) == "CrC"


def test_threshold_is_inclusive_and_keeps_no_sum():
    assert play(Threshold(0.2), 6, [0, 0.2, 0.2, 0.21, 0.1, 0.2]) == "CrrCrr"


def test_bounds():
    tiny = [0.0] * 10
    assert play(Bounded(Accumulate(1.0, TIME), 3, 2), 10, tiny) == "CCCrrrrrCC"
    assert play(Bounded(Accumulate(1.0, TIME), 1, 0, 2), 10, tiny) == "CrrCrrCrrC"
    assert play(Bounded(Interval(4), 1, 1), 9) == "CrrrCrrrC"
    assert play(Bounded(Interval(4), 6, 0), 9) == "CCCCCCrrr"


def test_a_mask_of_steps_and_a_limit_in_all():
    """As cache-dit: a mask shortens the warm-up to the steps that it begins with, and its length is the run's."""
    still = [0.0] * 10
    assert play(parse("dbcache:Fn=1").rules[0].policy, 10, still) == "CCCCCCCCrr"
    dynamic = parse("dbcache:Fn=1,scm=1100010000,max_continuous_cached_steps=3").rules[0].policy
    assert play(dynamic, 10, still) == "CCrrrCrrrC" and dynamic.steps == 10
    assert play(dynamic, 10, [0, 0, 0.5, 0, 0, 0, 0, 0.09, 0.08, 0]) == "CCCrrCrCrr"
    assert play(parse("dbcache:Fn=1,warmup=2,max_cached_steps=3").rules[0].policy, 10, still) == "CCrrrCCCCC"
    static = parse("dbcache:Fn=1,scm=1100010000,scm_policy=static").rules[0].policy
    assert play(static, 10) == "CCrrrCrrrr" and not static.signals
    for policy in (dynamic, static):
        with pytest.raises(ValueError, match="made for 10 steps, and the run has 9"):
            play(policy, 9, still)


def test_a_forced_step_restarts_the_sum():
    policy = Bounded(Accumulate(1.0, TIME), 3, 0)
    assert play(policy, 6, [0, 0.9, 0.9, 0.9, 0.05, 0.9]) == "CCCrrC"


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_fresh_state_always_computes(policy):
    for index in range(6):
        seen = {signal: RelativeL1(0.0, 1.0) for signal in policy.signals}
        assert policy.decide(policy.init(), Step(index, 6, "cond"), seen)[0] is Action.COMPUTE


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_policies_are_pure(policy):
    state, step = policy.init(), Step(0, 9, "cond")
    _, state = policy.decide(state, step, {})
    seen = {signal: RelativeL1(0.05, 1.0) for signal in policy.signals}
    assert policy.decide(state, Step(3, 9, "cond"), seen) == policy.decide(state, Step(3, 9, "cond"), seen)


def test_change_ratio():
    assert RelativeL1(1.0, 4.0).ratio == 0.25
    assert RelativeL1(0.0, 0.0).ratio == 0.0 and RelativeL1(1.0, 0.0).ratio == math.inf
    assert not RelativeL1(math.nan, 1.0).finite and RelativeL1(1.0, 0.0).finite


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Interval(0), "interval"),
        (lambda: Interval(2.5), "interval"),
        (lambda: Interval(True), "interval"),
        (lambda: Interval(2, 0), "warmup"),
        (lambda: StepMask(frozenset({1, 2})), "step 0"),
        (lambda: StepMask(frozenset({0, -1})), "computed step"),
        (lambda: Accumulate(0.0, TIME), "threshold"),
        (lambda: Accumulate(math.nan, TIME), "threshold"),
        (lambda: Accumulate(0.1, TIME, ()), "coefficients"),
        (lambda: Accumulate(0.1, TIME, (math.inf,)), "coefficients"),
        (lambda: Threshold(-1.0), "threshold"),
        (lambda: Bounded(Interval(2), 0), "first"),
        (lambda: Bounded(Interval(2), 1, -1), "last"),
        (lambda: Bounded(Interval(2), 1, 1, 0), "max_skips"),
        (lambda: Bounded(Interval(2), 1, 1, None, -1), "max_reused"),
        (lambda: GrowingInterval(0.5, 1.0, 1), "window"),
        (lambda: GrowingInterval(2.0, -1.0, 1), "alpha"),
    ],
)
def test_nonsense_is_refused_by_name(make, names):
    with pytest.raises(ValueError, match=names):
        make()


def test_an_idle_policy_names_the_smallest_change_that_it_was_free_to_use():
    """The first and last steps are computed whatever they measure."""
    measured = [
        (Step(i, 6, "cond"), {HEAD: RelativeL1(ratio, 1.0)})
        for i, ratio in enumerate((0.01, 0.4, 0.3, 0.5, 0.02, 0.02))
    ]
    policy = Bounded(Threshold(0.2), 1, 2)
    assert policy.idle(6, measured) == "the smallest change of first_blocks was 0.3, never at most the threshold 0.2"


# -- what is weighed

WEIGHING = {
    "accumulate": Accumulate(0.25, TIME),
    "unclamped": Accumulate(0.25, TIME, (1.0, -0.05), clamped=False),
    "threshold": Threshold(0.1),
    "bounded": Bounded(Accumulate(0.16, TIME), 2, 2, 2),
    "magcache": parse("magcache:curve=wan2.1-t2v-1.3b,threshold=0.05,max_skips=3").rules[0].policy,
    "easycache": parse("easycache:threshold=0.4,warmup=3").rules[0].policy,
}


@pytest.mark.parametrize("name", WEIGHING)
def test_what_is_weighed_is_what_decides(name):
    """Below the threshold a step is reused, from it on computed; where nothing is weighed, it is computed."""
    policy, total = WEIGHING[name], 40
    state, found = policy.init(), {None: set(), True: set(), False: set()}
    for i in range(total):
        ratio = 0.05 + 0.04 * (i % 3)
        seen = {signal: RelativeL1(ratio, 1.0) for signal in policy.signals} if i else {}
        step = Step(i, total, "cond")
        value = policy.weigh(state, step, seen)
        assert value == policy.weigh(state, step, seen)  # it changes nothing
        action, state = policy.decide(state, step, seen)
        below = None if value is None else value < policy.scale.threshold
        found[below].add(action)
    assert found == {None: {Action.COMPUTE}, True: {Action.REUSE}, False: {Action.COMPUTE}}


@pytest.mark.parametrize("policy", [Interval(3), StepMask(frozenset({0})), Bounded(Interval(3))], ids=str)
def test_a_policy_without_a_number_has_no_scale(policy):
    assert policy.scale is None and policy.weigh(policy.init(), Step(0, 5, "cond"), {}) is None


# -- MagCache


class PublishedMagCache:
    """As it is stated: R <- R g, n <- n + 1, E <- E + |1 - R|; skip if E < threshold and n <= K, else begin anew."""

    def __init__(self, ratios, threshold, most, kept):
        self.ratios, self.threshold, self.most, self.kept = ratios, threshold, most, kept
        self.reset()

    def reset(self):
        self.grown, self.skips, self.error = 1.0, 0, 0.0

    def computes(self, step):
        if step < self.kept:
            return True
        self.grown *= self.ratios[step]
        self.skips += 1
        self.error += abs(1.0 - self.grown)
        if self.error < self.threshold and self.skips <= self.most:
            return False
        self.reset()
        return True


def timeline(policy, steps):
    state, line = policy.init(), ""
    for step in steps:
        action, state = policy.decide(state, step, {})
        line += "C" if action is Action.COMPUTE else "r"
    return line


@pytest.mark.parametrize("branch", ["cond", "uncond"])
@pytest.mark.parametrize("curve", ["hunyuanvideo-t2v-720p", "wan2.1-t2v-1.3b", "wan2.1-i2v-14b-720p", "qwen-image"])
def test_magcache_at_its_own_number_of_steps_is_the_published_rule(curve, branch):
    found = published_curves()[curve]
    policy = parse(f"magcache:published={curve}").rules[0].policy
    ratios, T = found.get("uncond", found["cond"]) if branch == "uncond" else found["cond"], found["steps"]
    rule = PublishedMagCache(ratios, policy.threshold, policy.max_skips, int(policy.retention * T + 0.5))
    expected = "".join("C" if rule.computes(i) else "r" for i in range(T))
    line = timeline(policy, [Step(i, T, branch) for i in range(T)])
    assert line == expected and "rr" in line


def test_magcache_never_skips_flux_s_step_11_of_28():
    policy = parse("magcache:curve=flux.1-dev,threshold=1e9,max_skips=100,retention=0.1").rules[0].policy
    assert timeline(policy, [Step(i, 28, "cond") for i in range(28)]) == "CCC" + "r" * 8 + "C" + "r" * 16


def test_magcache_at_half_the_steps_grows_by_two_steps_of_its_curve():
    """A curve that falls by a tenth every step: at half the steps one of them moves by 1 - 0.81, not by 0.1."""
    curve = MagCachePolicy(0.15, 9, 0.0, of_ratios((1.0, *[0.9] * 20)))
    assert timeline(curve, [Step(i, 21, "cond") for i in range(4)]) == "CrCr"
    assert timeline(curve, [Step(i, 11, "cond") for i in range(4)]) == "CCCC"


def test_magcache_computes_the_first_part_of_each_expert():
    policy = MagCachePolicy(1e9, 100, 0.4, of_ratios((1.0,) * 40))
    spans = {0: (0, 10), 1: (10, 40)}
    steps = [Step(i, 40, "cond", int(i >= 10), spans[int(i >= 10)]) for i in range(40)]
    assert timeline(policy, steps[:10]) == "CCCC" + "r" * 6
    assert timeline(policy, steps[10:]) == "C" * 12 + "r" * 18
    late = replace(policy, curves=of_ratios((1.0,) * 40, experts=(1,)))
    assert timeline(late, steps[:10]) == "C" * 10 and "r" in timeline(late, steps[10:])


def test_broadcasts_are_counted_from_the_first_step_and_kept_to_their_window():
    policy = PyramidPolicy(3, 100.0, 800.0)
    steps = [Step(i, 10, "cond", timestep=1000.0 - 100 * i) for i in range(10)]
    assert timeline(policy, steps) == "CCCCrrCrrC"


def test_mlps_are_broadcast_after_listed_timesteps():
    """Of Open-Sora's 30 steps, and of a schedule that has none of them: then after the first step below."""
    policy = AfterTimesteps(2, (676.0, 788.0, 864.0))
    published = [1000, 900, 864, 826, 788, 751, 714, 676, 638, 601, 563, 5]
    steps = [Step(i, 12, "cond", timestep=float(t)) for i, t in enumerate(published)]
    assert timeline(policy, steps) == "CCCrCrrCrrCC"
    others = [Step(i, 8, "cond", timestep=1000.0 - 60 * i) for i in range(8)]
    assert timeline(policy, others) == "CCCCCrCr"  # after 820, after 760 and after 640


def test_a_wrapper_says_whatever_it_wraps_says():
    """Also what is optional: timesteps, a number of steps, remarks; a limit around them loses none."""
    assert Bounded(PyramidPolicy(2, 100.0, 800.0)).timed and not Bounded(Interval(2)).timed
    mask = StepMask({0, 3, 9}, made_for=8)
    assert Bounded(mask).steps == Bounded(Bounded(mask)).steps == 8 and Bounded(Interval(2)).steps is None
    assert Bounded(mask).remark(8) == mask.remark(8) == "listed as computed, but beyond this run of 8 steps (0 to 7): 9"
    assert Bounded(Threshold(0.1)).signals == {Signal.FIRST_BLOCKS} and not Bounded(mask).signals
