"""Against diffusers' own hooks on the same schedule."""

from __future__ import annotations

import math

import pytest
import torch

import c4d
from bench import peers
from c4d.core.caching.curves import of_ratios
from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, CacheMethod, ModuleRule, OutputRule
from c4d.core.methods.magcache import MagCachePolicy, published_curves
from tests.seam.peers import apart, same, sides, uncached
from tests.tiny import CASES, rand

pytestmark = pytest.mark.parity

STEPS, INTERVAL, WARMUP = 12, 4, 3
SINGLE = r"single_transformer_blocks\.\d+\.proj_out"
DUAL = r"transformer_blocks\.\d+\.(attn|ff|ff_context)"
MODULES = {
    "wan-t2v": (r"blocks\.\d+\.(attn1|attn2|ffn)",),
    "wan-i2v": (r"blocks\.\d+\.(attn1|attn2|ffn)",),
    "wan-ti2v": (r"blocks\.\d+\.(attn1|attn2|ffn)",),
    "hunyuan-t2v": (DUAL, SINGLE),
    "hunyuan-i2v-replace": (DUAL, SINGLE),
    "flux": (DUAL, SINGLE),
}


def hooks(config):
    return lambda model: peers.hooks(model, config)


# -- TaylorSeer, First-Block


def taylorseer(**more):
    from diffusers import TaylorSeerCacheConfig

    common = {"cache_interval": INTERVAL, "disable_cache_before_step": WARMUP, "taylor_factors_dtype": torch.float32}
    return TaylorSeerCacheConfig(**common, **more)


COMPUTED = frozenset(s for s in range(STEPS) if s < WARMUP or (s - WARMUP - 1) % INTERVAL == 0)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", MODULES)
def test_per_module_taylorseer_equals_diffusers(name, order):
    """diffusers computes steps s < E and (s - E - 1) mod N == 0, and forms differences from the first step on."""
    method = CacheMethod("mine", (ModuleRule(StepMask(COMPUTED), Taylor(order)),))
    found = sides(CASES[name], method, hooks(taylorseer(max_order=order, cache_identifiers=list(MODULES[name]))), STEPS)
    assert found.reused == 2 * (STEPS - len(COMPUTED))
    same(found)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", ["wan-t2v", "wan-vace", "hunyuan-t2v", "flux"])
def test_taylorseer_lite_equals_diffusers(name, order):
    """The same steps and differences, of the transformer's output alone; the weights of order 2 enlarge rounding."""
    method = CacheMethod("mine", (OutputRule(StepMask(COMPUTED), Taylor(order), residual=False),))
    found = sides(CASES[name], method, hooks(taylorseer(max_order=order, use_lite_mode=True)), STEPS)
    assert found.reused == 2 * (STEPS - len(COMPUTED))
    same(found, 1e-6 * max(1, order))


@pytest.mark.parametrize("threshold", [0.12, 0.16, 0.2, 0.5])
def test_first_block_equals_diffusers(threshold):
    from diffusers import FirstBlockCacheConfig

    method = f"first-block:threshold={threshold},last=0"
    same(sides(CASES["wan-t2v"], method, hooks(FirstBlockCacheConfig(threshold=threshold)), STEPS))


# -- MagCache


def magcache(ratios, steps, threshold, max_skips, retention=0.2):
    from diffusers import MagCacheConfig

    return MagCacheConfig(threshold, max_skips, retention, steps, list(ratios))


def by_curve(ratios, threshold, max_skips, retention=0.2):
    policy = MagCachePolicy(threshold, max_skips, retention, of_ratios(ratios))
    return CacheMethod("mine", (BlocksRule(policy, Reuse()),))


@pytest.mark.parametrize(("threshold", "max_skips"), [(0.06, 4), (0.12, 2), (0.24, 4)])
@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("flux", "flux.1-kontext-dev"),
        ("hunyuan-t2v", "hunyuanvideo-t2v-544p"),
        ("wan-t2v", "wan2.1-t2v-1.3b"),
        ("wan-i2v", "wan2.1-i2v-14b-480p"),
    ],
)
def test_magcache_with_published_ratios_equals_diffusers(name, curve, threshold, max_skips):
    """At the curve's own step count; one list of ratios, for diffusers has none for the unconditional branch."""
    known = published_curves()[curve]
    ratios, steps = known["cond"], known["steps"]
    config = magcache(ratios, steps, threshold, max_skips)
    same(sides(CASES[name], by_curve(ratios, threshold, max_skips), hooks(config), steps))


def test_magcache_at_other_step_counts_is_another_curve_in_diffusers():
    """diffusers takes the nearest ratios as they are: at 50 steps FLUX's residual grows by 52 % instead of 19 %."""
    ratios = published_curves()["flux.1-kontext-dev"]["cond"]
    theirs = math.prod(magcache(ratios, 50, 0.24, 5).mag_ratios.tolist())
    ours = by_curve(ratios, 0.24, 5)
    (curve, *_) = ours.rules[0].policy.curves
    assert math.exp(curve.at(1.0) - curve.at(0.0)) == pytest.approx(math.prod(ratios), rel=1e-9)
    assert (math.prod(ratios), theirs) == pytest.approx((1.192, 1.522), abs=1e-3)
    found = sides(CASES["flux"], ours, hooks(magcache(ratios, 50, 0.24, 5)), 50)
    assert found.reused == found.theirs and found.apart > 1e-2  # as many steps, but others


def test_magcache_at_the_threshold_itself():
    """diffusers reuses at an error equal to the threshold, c4d and MagCache's authors only below it."""
    ratios = [1.0, 1.0, *[0.5, 2.0] * 5]
    found = sides(CASES["wan-t2v"], by_curve(ratios, 0.5, 1), hooks(magcache(ratios, STEPS, 0.5, 1)), STEPS)
    below = sides(CASES["wan-t2v"], by_curve(ratios, 0.5 + 1e-9, 1), hooks(magcache(ratios, STEPS, 0.5, 1)), STEPS)
    assert found.reused < found.theirs
    same(below)


# -- SeaCache


@pytest.mark.parametrize("most", [0, 2])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.25, 1.0])
def test_seacache_equals_diffusers(threshold, order, most):
    """For one sample; of a batch diffusers takes the mean of the samples' changes, c4d the change of the batch."""
    from diffusers import SeaCacheConfig

    config = SeaCacheConfig(threshold=threshold, residual_order=order, max_consecutive_cached=most)
    method = c4d.methods.seacache(threshold, order, max_skips=most or None)
    same(sides(CASES["wan-t2v"], method, hooks(config), 14))


# -- Pyramid Attention Broadcast, FasterCache


def timed(case, name, **fields):
    import diffusers

    config = getattr(diffusers, name)
    return lambda model: peers.timed(
        model, lambda clock: config(current_timestep_callback=clock, **fields), unit=case.unit
    )


def pyramid(case, attn, cross_attn, window, **more):
    fields = {
        "spatial_attention_block_skip_range": attn,
        "spatial_attention_timestep_skip_range": window,
        "cross_attention_block_skip_range": cross_attn,
        "cross_attention_timestep_skip_range": window,
    }
    return timed(case, "PyramidAttentionBroadcastConfig", **fields, **more)


def faster(case, attn, window, weight, **more):
    fields = {
        "spatial_attention_block_skip_range": attn,
        "spatial_attention_timestep_skip_range": window,
        "attention_weight_callback": lambda _: weight,
        "is_guidance_distilled": True,
    }
    return timed(case, "FasterCacheConfig", **fields, **more)


DUAL_ONLY = {"spatial_attention_block_identifiers": ("^transformer_blocks.*attn",)}
ONLY = dict.fromkeys(("hunyuan-t2v", "hunyuan-i2v-replace", "flux"), DUAL_ONLY)


@pytest.mark.parametrize(
    ("name", "attn", "cross_attn", "window"),
    [
        ("wan-t2v", 2, None, (100, 800)),
        ("wan-t2v", None, 4, (100, 850)),
        ("wan-t2v", 3, 5, (450, 930)),
        ("wan-i2v", 2, 6, (100, 1001)),
        ("wan-ti2v", 3, 6, (100, 850)),
        ("hunyuan-t2v", 3, None, (100, 850)),
        ("hunyuan-i2v-replace", 2, None, (100, 800)),
        ("flux", 3, None, (100, 850)),
    ],
)
def test_pyramid_attention_broadcast_equals_diffusers(name, attn, cross_attn, window):
    """One branch. On HunyuanVideo and FLUX diffusers is told to leave the text's refiner and single-stream blocks.

    Those project attention and MLP together, so that c4d's site there is both (``total``), which no range is for.
    """
    given = ",".join(f"{kind}={n}" for kind, n in (("attn", attn), ("cross_attn", cross_attn)) if n)
    method = f"pab:{given},low={window[0]},high={window[1]}"
    theirs = pyramid(CASES[name], attn, cross_attn, window, **ONLY.get(name, {}))
    same(sides(CASES[name], method, theirs, 20, guided=False))


@pytest.mark.parametrize(
    ("name", "attn", "window", "weight"),
    [
        ("wan-t2v", 2, (-1, 681), 0.5),
        ("wan-i2v", 4, (-1, 901), 0.3),
        ("wan-ti2v", 3, (100, 681), 0.5),
        ("hunyuan-t2v", 2, (-1, 681), 0.5),
        ("flux", 3, (-1, 901), 0.7),
    ],
)
def test_fastercache_equals_diffusers(name, attn, window, weight):
    """As for distilled guidance, one branch; the blocks as in Pyramid Attention Broadcast."""
    method = f"fastercache:weight={weight},attn={attn},low={window[0]},high={window[1]}"
    theirs = faster(CASES[name], attn, window, weight, **ONLY.get(name, {}))
    same(sides(CASES[name], method, theirs, 20, guided=False))


@pytest.mark.parametrize(("interval", "window", "weights"), [(5, (-1, 641), (1.1, 1.1)), (3, (-1, 1001), (1.2, 0.8))])
def test_cfg_cache_equals_diffusers(interval, window, weights):
    """There both branches are one batch, the unconditional one first; here two calls, the conditional one first."""
    case, steps = CASES["wan-t2v"], 20
    times, text = [1000.0 * (1 - k / steps) for k in range(steps)], rand(2, 12, 16, seed=1)
    fields = {
        "spatial_attention_block_skip_range": None,
        "unconditional_batch_skip_range": interval,
        "unconditional_batch_timestep_skip_range": window,
        "alpha_low_frequency": weights[0],
        "alpha_high_frequency": weights[1],
        "attention_weight_callback": lambda _: 0.5,
    }

    def call(model, x, t, *branches):
        words = torch.cat([text[i : i + 1] for i in branches])
        batch = dict(hidden_states=x.repeat(len(branches), 1, 1, 1, 1), timestep=torch.full((len(branches),), t))
        return model(**batch, encoder_hidden_states=words, return_dict=False)[0]

    def loop(both):
        x, outs = rand(*case.latents, seed=3), []
        for t in times:
            uncond, cond = both(x, t)
            outs.append(torch.cat((uncond, cond)))
            x = x - (uncond + 2.0 * (cond - uncond)) / steps
        return outs

    def named(name, x, t):
        with model.cache_context(name):
            return call(model, x, t, int(name == "cond"))

    model = case.build()
    with timed(case, "FasterCacheConfig", **fields)(model) as begin:
        begin()
        theirs = loop(lambda x, t: call(model, x, t, 0, 1).chunk(2))
    model = case.build()
    text_of = f"low={window[0]},high={window[1]},low_weight={weights[0]},high_weight={weights[1]}"
    with c4d.cached(model, f"cfg-cache:interval={interval},{text_of}") as session:
        session.begin(times)
        ours = loop(lambda x, t: (named("cond", x, t), named("uncond", x, t))[::-1])
    plain = loop(lambda x, t: call(model, x, t, 0, 1).chunk(2))
    assert session.report().reused > 4 and apart(ours, plain) > 1e-3
    assert apart(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (lambda case: pyramid(case, 2, None, (0, 1001)), "pab:attn=2,low=0,high=1001"),
        (lambda case: faster(case, 2, (0, 999), 0.5), "fastercache:weight=0.5,attn=2,low=0,high=999"),
    ],
)
def test_diffusers_serves_one_branch_from_the_other(make, method):
    """Its state is a module's and counts forwards: with range 2 every unconditional pass takes the conditional one's.

    c4d keeps one for each branch. They are equal where a model runs one branch, and more than 1 % apart where two.
    """
    case, counts = CASES["wan-t2v"], []
    for open_ in (make(case), lambda model: c4d.cached(model, method)):
        model, now, ran = case.build(), ["uncond"], {"cond": 0, "uncond": 0}

        def enter(*_, now=now):
            now[0] = "cond" if now[0] == "uncond" else "uncond"

        def count(*_, now=now, ran=ran):
            ran[now[0]] += 1

        with open_(model) as opened:
            model.register_forward_pre_hook(enter)
            model.blocks[0].attn1.to_q.register_forward_hook(count)
            case.loop(model, STEPS, getattr(opened, "begin", None))
        counts.append(ran)
    theirs, ours = counts
    assert ours["cond"] == ours["uncond"] == STEPS // 2
    assert theirs["cond"] == STEPS and theirs["uncond"] <= 1
    assert sides(case, method, make(case), STEPS).apart > 1e-2


def test_fastercache_fails_in_diffusers_where_the_window_holds_the_first_step():
    """It reuses at once, from nothing (a run that starts late, as from an image); c4d computes the first step."""
    case = CASES["wan-t2v"]
    with pytest.raises(TypeError), faster(case, 2, (-1, 1001), 0.5)(model := case.build()):
        case.loop(model, 4, guided=False)
    model = case.build()
    with c4d.cached(model, "fastercache:weight=0.5,attn=2,low=-1,high=1001") as session:
        ours = case.loop(model, 4, session.begin, guided=False)
    assert session.report().modules_reused > 0 and apart(ours, uncached("wan-t2v", 4, False)) > 1e-4
