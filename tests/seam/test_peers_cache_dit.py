"""Against cache-dit's DBCache and its calibrators on the same schedule."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import c4d
from bench import peers
from bench.peers.equal import StaleSlope, Undivided
from c4d.core.caching.feature_forecasters import DynamicModes
from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.forecasters import FoCa
from c4d.core.text.grammar import parse
from tests.seam.peers import apart, same, sides, uncached
from tests.tiny import CASES

pytestmark = pytest.mark.parity

STEPS = 16
BLOCKS = {
    "wan-t2v": (("blocks",), "Pattern_2"),
    "wan-i2v": (("blocks",), "Pattern_2"),
    "flux": (("transformer_blocks", "single_transformer_blocks"), "Pattern_1"),
    "hunyuan-t2v": (("transformer_blocks", "single_transformer_blocks"), "Pattern_0"),
}
LATE = 2  # cache-dit's TaylorSeer forms no difference with a feature from before this step


def dbcache(name, threshold, head=1, tail=0, calibrator=None, warmup=4, **more):
    pytest.importorskip("cache_dit")

    def open_(model):
        blocks = {"Fn_compute_blocks": head, "Bn_compute_blocks": tail, "max_warmup_steps": warmup}
        found = peers.adapter_of(model, *BLOCKS[name])
        return peers.cache_dit(
            model, STEPS, calibrator=calibrator, adapter=found, residual_diff_threshold=threshold, **blocks, **more
        )

    return open_


def first_block(threshold, head=1, tail=0, forecast=None, start=0):
    method = parse(f"first-block:threshold={threshold},warmup=4,last=0,first_blocks={head},last_blocks={tail}")
    rule = method.rules[0]
    return dataclasses.replace(
        method, rules=(dataclasses.replace(rule, forecast=forecast or rule.forecast, drop_before=start),)
    )


THRESHOLDS = {"wan-t2v": 0.1, "wan-i2v": 0.1, "flux": 0.3}
SHAPES = [("wan-t2v", 1, 0), ("wan-t2v", 2, 1), ("wan-i2v", 1, 2), ("flux", 1, 0), ("flux", 2, 1), ("flux", 3, 1)]


@pytest.mark.parametrize(("name", "head", "tail"), SHAPES)
@pytest.mark.parametrize("order", [None, 1, 2])
def test_dbcache_equals_cache_dit(name, head, tail, order):
    """First and last blocks that always run; FLUX's 2 + 3 blocks are one chain, whose tail takes both streams.

    With TaylorSeer cache-dit's first difference is that of steps 3 and 2, and order 2 comes with step 4 (start=2).
    """
    threshold = THRESHOLDS[name]
    forecast = None if order is None else Taylor(order)
    theirs = dbcache(name, threshold, head, tail, order and f"TaylorSeer {order}")
    found = sides(CASES[name], first_block(threshold, head, tail, forecast, LATE), theirs, STEPS, tail=tail)
    same(found, 1e-6 * max(1, order or 0))


MASK = [1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize(("name", "head", "tail"), SHAPES)
@pytest.mark.parametrize("rule", ["dynamic", "static"])
def test_masks_and_limits_by_cache_dit_s_names(name, head, tail, rule):
    """The warm-up of 4 steps is shortened to the mask's first two; the limits hold where the threshold decides."""
    limits = {"max_cached_steps": 7, "max_continuous_cached_steps": 2}
    given = {"steps_computation_mask": MASK, "steps_computation_policy": rule, **limits}
    said = {"scm": "".join(map(str, MASK)), "scm_policy": rule, **limits}
    mine = c4d.methods.dbcache(head, tail, THRESHOLDS[name], warmup=4, **said)
    found = sides(CASES[name], mine, dbcache(name, THRESHOLDS[name], head, tail, **given), STEPS, tail=tail)
    same(found)
    assert (found.reused == 2 * MASK.count(0)) == (rule == "static")


def test_cache_dit_runs_blocks_twice_where_head_and_tail_overlap():
    """F3B2 of four blocks: the third runs in both, so that even without a hit the result is wrong; c4d refuses."""
    case = CASES["wan-t2v"]
    model = case.build()
    with dbcache("wan-t2v", -1.0, 3, 2)(model) as begin:
        begin()
        found = case.loop(model, STEPS)
    assert apart(found, uncached("wan-t2v", STEPS)) > 1e-2
    with (
        pytest.raises(ValueError, match="leave none of the 4 blocks"),
        c4d.cached(case.build(), first_block(0.1, 3, 2)),
    ):
        pass


def test_cache_dit_caches_the_lists_of_hunyuanvideo_apart():
    """A choice: there each list has a head and a decision of its own, here 2 + 3 blocks are one chain with one.

    With one decision for all steps they differ still: cache-dit's second list begins with a block that always runs.
    """
    case = CASES["hunyuan-t2v"]
    found = sides(case, first_block(1e9), dbcache("hunyuan-t2v", 1.0), STEPS)
    assert found.reused == found.theirs == 2 * (STEPS - 4)
    assert found.apart > 1e-3


# -- FoCa


@pytest.mark.parametrize(("name", "threshold"), [("wan-t2v", 0.3), ("flux", 0.2)])
def test_foca_equals_cache_dit_where_the_last_full_steps_are_adjacent(name, threshold):
    same(
        sides(CASES[name], first_block(threshold, forecast=FoCa()), dbcache(name, threshold, calibrator="FoCa"), STEPS)
    )


@pytest.mark.parametrize(("name", "head", "tail"), SHAPES[:4])
def test_foca_without_division_by_the_gaps_is_cache_dit_s(name, head, tail):
    """cache-dit takes differences of features as slopes, however many steps are between: 1 % and more away."""
    threshold, theirs = THRESHOLDS[name], dbcache(name, THRESHOLDS[name], head, tail, "FoCa")
    same(sides(CASES[name], first_block(threshold, head, tail, Undivided()), theirs, STEPS, tail=tail))
    assert sides(CASES[name], first_block(threshold, head, tail, FoCa()), theirs, STEPS).apart > 1e-2


def test_over_uneven_full_steps_cache_dit_s_foca_overshoots_a_line():
    """Full steps 0, 4: at step 6 of F = t it says 12, for it takes 4, the whole difference, as the slope of a step."""
    state = pytest.importorskip("cache_dit.caching.cache_contexts.calibrators.foca").FoCaState()
    for step in range(7):
        state.mark_step_begin()
        if step in (0, 4):
            state.update(torch.tensor([float(step)]))
    assert state.approximate().item() == pytest.approx(12.0)
    weights = FoCa().weights([0.0, 4.0], 6.0)
    assert weights[1] * 4.0 == pytest.approx(6.0)


# -- dynamic modes


@pytest.mark.parametrize(("name", "threshold"), [("wan-t2v", 0.3), ("flux", 0.2)])
def test_modes_equal_cache_dit_s_where_the_full_steps_are_even(name, threshold):
    same(
        sides(
            CASES[name],
            first_block(threshold, forecast=DynamicModes()),
            dbcache(name, threshold, calibrator="DMD"),
            STEPS,
        )
    )


@pytest.mark.parametrize(("name", "head", "tail"), SHAPES[:4])
def test_modes_with_a_stale_slope_are_cache_dit_s(name, head, tail):
    """Before the modes it has Taylor's line, but with a difference over the last two gaps that is divided by one.

    Over even steps that is twice the slope; its own TaylorSeer has it right.
    """
    threshold, theirs = THRESHOLDS[name], dbcache(name, THRESHOLDS[name], head, tail, "DMD")
    same(sides(CASES[name], first_block(threshold, head, tail, StaleSlope()), theirs, STEPS, tail=tail))
    assert sides(CASES[name], first_block(threshold, head, tail, DynamicModes()), theirs, STEPS).apart > 1e-3


def test_cache_dit_s_line_before_the_modes_has_twice_the_slope():
    """F = t, full steps 0, 2, 4: at step 5 it says 6."""
    state = pytest.importorskip("cache_dit.caching.cache_contexts.calibrators.dmd").DMDState()
    for step in range(6):
        state.mark_step_begin()
        if step in (0, 2, 4):
            state.update(torch.tensor([[float(step)]]))
    assert state.approximate().item() == pytest.approx(6.0)
    weights = DynamicModes().weights([0.0, 2.0, 4.0], 5.0)
    assert weights[1] * 2.0 + weights[2] * 4.0 == pytest.approx(5.0)
