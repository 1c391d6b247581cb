"""Against diffusers' own hooks on the same schedule."""

from __future__ import annotations

import pytest
import torch

import c4d
from c4d.core.ladder import Taylor
from c4d.core.policy import StepMask
from c4d.core.rule import CacheMethod, Rule
from tests.tiny import CASES

STEPS, INTERVAL, WARMUP = 12, 4, 3
MODULES = {
    "wan-t2v": (r"blocks\.\d+\.(attn1|attn2|ffn)",),
    "wan-i2v": (r"blocks\.\d+\.(attn1|attn2|ffn)",),
    "wan-ti2v": (r"blocks\.\d+\.(attn1|attn2|ffn)",),
    "hunyuan-t2v": (r"transformer_blocks\.\d+\.(attn|ff|ff_context)", r"single_transformer_blocks\.\d+\.proj_out"),
    "hunyuan-i2v-replace": (
        r"transformer_blocks\.\d+\.(attn|ff|ff_context)",
        r"single_transformer_blocks\.\d+\.proj_out",
    ),
}


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", MODULES)
def test_per_module_taylorseer_equals_diffusers(name, order):
    """diffusers computes steps s < E and (s - E - 1) mod N == 0, and forms differences from the first step on."""
    from diffusers import TaylorSeerCacheConfig

    case = CASES[name]
    computed = frozenset(s for s in range(STEPS) if s < WARMUP or (s - WARMUP - 1) % INTERVAL == 0)
    method = CacheMethod("mine", (Rule(("attn", "cross_attn", "mlp", "total"), StepMask(computed), Taylor(order)),))
    model = case.build()
    uncached = case.loop(model, STEPS)
    with c4d.cached(model, method) as session:
        mine = case.loop(model, STEPS, session.begin)
    model.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=INTERVAL,
            disable_cache_before_step=WARMUP,
            max_order=order,
            taylor_factors_dtype=torch.float32,
            cache_identifiers=list(MODULES[name]),
        )
    )
    theirs = case.loop(model, STEPS)
    assert session.report().reused == 2 * (STEPS - len(computed))
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()
    assert (mine[-1] - uncached[-1]).norm() > 1e-5 * uncached[-1].norm()


@pytest.mark.parametrize("threshold", [0.12, 0.16, 0.2, 0.5])
def test_first_block_equals_diffusers(threshold):
    from diffusers import FirstBlockCacheConfig

    case = CASES["wan-t2v"]
    model = case.build()
    with c4d.cached(model, f"first-block:threshold={threshold},last=0") as session:
        mine = case.loop(model, STEPS, session.begin)
    model.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    theirs = case.loop(model, STEPS)
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()
    assert session.report().reused > 0
