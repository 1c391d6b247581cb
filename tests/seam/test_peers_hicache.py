"""Against hicache_pp: Hermite forecasts and dynamic modes, alone, in its state machine, and around a model."""

from __future__ import annotations

import math

import pytest
import torch

import c4d
from c4d.core.caching.feature_forecasters import DynamicModes
from c4d.core.caching.finite_differences import Hermite
from c4d.core.text.grammar import parse
from c4d.core.types import Action, Step
from tests.seam.peers import apart, uncached
from tests.tiny import CASES, rand

pytestmark = pytest.mark.parity

hicache = pytest.importorskip("hicache_pp")
STEPS = 16


class Features:
    """What ``DynamicModes`` asks of a run, over features at hand."""

    def __init__(self, features):
        self.features = features

    def lincomb(self, features, weights):
        return sum(w * x for x, w in zip(features, weights, strict=True))

    def gram(self):
        rows = torch.stack([x.flatten(1) for x in self.features], 1).double()
        return list(rows @ rows.mT)


def modes(features, times, t, **options):
    return DynamicModes(max(4, len(features)), **options).combine(features, times, t, Features(features))


HISTORIES = {
    "noise": lambda t: rand(1, 96, seed=t),
    "decay and rotation": lambda t: (
        0.9**t * (math.cos(0.35 * t) * rand(1, 96) + math.sin(0.35 * t) * rand(1, 96, seed=1))
        + 0.7**t * rand(1, 96, seed=2)
    ),
    "saturation": lambda t: rand(1, 96) + math.tanh(t / 5) * rand(1, 96, seed=1) + 0.01 * rand(1, 96, seed=9 + t),
    "line": lambda t: rand(1, 96) + t * rand(1, 96, seed=1),
    "alternation": lambda t: (-1.0) ** t * rand(1, 96) + 0.1 * rand(1, 96, seed=1),
    "nothing new": lambda t: rand(1, 96),
    "growth by 50": lambda t: 50.0**t * rand(1, 96, seed=t),
    "zeros": lambda t: torch.zeros(1, 96),
}


@pytest.mark.parametrize("rank", [None, 1, 2])
@pytest.mark.parametrize("count", [4, 5, 8])
@pytest.mark.parametrize("kind", HISTORIES)
def test_modes_equal_hicache_pp_s(kind, count, rank):
    """A window of evenly spaced features, at fractions and multiples of their gap; ranks cut to what is there."""
    held = [HISTORIES[kind](t).double() for t in range(count)]
    for k in (0.25, 1.0, 2.5):
        theirs = hicache.dmd_forecast(held, k, rank=rank or 0)
        ours = modes(held, [4.0 * t for t in range(count)], 4.0 * (count - 1 + k), rank=rank)
        assert (ours - theirs).norm() <= 1e-7 * theirs.norm(), k


def test_a_rank_of_more_than_the_cut_leaves_is_not_reached_in_c4d():
    """A choice: hicache_pp takes as many singular values as it is told, here none is below 1e-4 of the largest."""
    held = [1e5**t * rand(1, 96, seed=t).double() for t in range(5)]
    ours = modes(held, range(5), 4.5, rank=2)
    assert torch.equal(ours, modes(held, range(5), 4.5, rank=1)) and torch.equal(ours, modes(held, range(5), 4.5))
    assert (ours - hicache.dmd_forecast(held, 0.5)).norm() <= 1e-7 * ours.norm()
    assert (ours - hicache.dmd_forecast(held, 0.5, rank=2)).norm() > 0.3 * ours.norm()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_feature_that_is_not_finite_is_passed_over_as_in_hicache_pp(broken):
    held = [rand(2, 9, seed=t) for t in range(5)]
    held[1][0, 3] = broken
    ours = modes(held, range(5), 5.5)
    assert torch.equal(ours[:1], hicache.dmd_forecast([x[:1] for x in held], 1.5))
    assert torch.equal(ours[:1], held[-1][:1])
    alone = modes([x[1:] for x in held], range(5), 5.5)
    assert torch.equal(ours[1:], alone) and not torch.equal(alone, held[-1][1:])


def drive(state, computed, features, forecast, steps):
    """hicache_pp's loop over ``steps``: what it makes at every forecast step."""
    out = {}
    for state["step"] in range(steps):
        if hicache.hicache_decide(state) == "full":
            computed.append(state["step"])
            hicache.hicache_update_derivatives(state, features(state["step"]))
            hicache.dmd_update_snapshots(state, features(state["step"]))
        else:
            out[state["step"]] = forecast(state)
    return out


@pytest.mark.parametrize("scale", [0.5, 0.71])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("warmup", "interval", "end"), [(1, 3, 20), (2, 4, 20), (3, 5, 17), (4, 2, 20)])
def test_hermite_equals_hicache_pp_s_state_machine(order, scale, warmup, interval, end):
    """Its decisions are ``Interval``'s; gaps are uneven after warm-up and at the end. It has no guard (start=0)."""
    computed = []
    values = [rand(7, seed=t).double() for t in range(20)]
    state = hicache.hicache_init(20, interval, order, warmup, end, scale)
    theirs = drive(state, computed, values.__getitem__, hicache.hicache_forecast, 20)
    forecaster = Hermite(order, scale=scale)
    for t, found in theirs.items():
        times = [s for s in computed if s < t][-forecaster.num_features :]
        ours = sum(w * values[s] for s, w in zip(times, forecaster.weights(times, t), strict=True))
        assert (ours - found).norm() <= 1e-12 * found.norm(), t
    policy, last = parse(f"hicache:interval={interval},warmup={warmup}").rules[0].policy, None
    for t in range(end):
        action, last = policy.decide(last, Step(t, 20, "cond"), {})
        assert (action is Action.COMPUTE) == (t in computed)


def test_modes_equal_hicache_pp_s_state_machine():
    """Over even steps after an uneven warm-up; before four are even it is Hermite there, here Taylor's line."""
    computed = []
    values = [HISTORIES["decay and rotation"](t).double() for t in range(24)]
    state = hicache.hicache_init(24, 3, 1, 3, sigma=0.5, backend="dmd", history=5)
    theirs = drive(state, computed, values.__getitem__, hicache.dmd_forecast_state, 24)
    assert hicache.hicache_telemetry(state)["method_counts"] == {"hermite": 6, "dmd": 8, "reuse": 0}
    for t, found in theirs.items():
        times = [s for s in computed if s < t][-5:]
        ours = DynamicModes(5).combine([values[s] for s in times], times, t, Features([values[s] for s in times]))
        if t < 12:
            few = Hermite(1, scale=0.5).weights(times[-2:], t)
            ours = sum(w * values[s] for s, w in zip(times[-2:], few, strict=True))
        assert (ours - found).norm() <= 1e-7 * found.norm(), t


@pytest.mark.parametrize(
    ("method", "guided", "options"),
    [
        ("hicache:interval=3,order=2,warmup=2@output", True, {"max_order": 2, "sigma": 0.5}),
        # The fall-back of its modes is Hermite of order 1: at this scale Taylor's line, which is that of c4d's.
        ("dmd:interval=3,warmup=2,window=5", False, {"backend": "dmd", "max_order": 1, "sigma": math.sqrt(0.5)}),
    ],
)
@pytest.mark.parametrize("name", ["wan-t2v", "flux"])
def test_a_run_equals_hicache_pp_around_the_model(name, method, guided, options):
    """It forecasts the guided output, c4d each branch's: the same for Hermite, which is linear, and for one branch."""
    case = CASES[name]
    forecast = hicache.dmd_forecast_state if "backend" in options else hicache.hicache_forecast
    state = hicache.hicache_init(STEPS, 3, first_enhance=2, **options)
    model, x, theirs = case.build(), rand(*case.latents, seed=3), []
    for state["step"] in range(STEPS):
        t = 1000.0 * (1 - state["step"] / STEPS)
        if hicache.hicache_decide(state) == "full":
            out = case.run(model, x, t)
            if guided:
                uncond = case.run(model, 0.9 * x, t)
                out = uncond + 2.0 * (out - uncond)
            hicache.hicache_update_derivatives(state, out)
            hicache.dmd_update_snapshots(state, out)
        else:
            out = forecast(state)
        x = x.clone()
        x[:, : out.shape[1]] -= out / STEPS
        theirs.append(out)
    model = case.build()
    with c4d.cached(model, method) as session:
        ours = case.loop(model, STEPS, session.begin, guided)
    assert session.report().computed == len(state["activated_steps"]) * (1 + guided) < STEPS * (1 + guided)
    assert apart(ours, theirs) <= 1e-6 and apart(ours, uncached(name, STEPS, guided)) > 1e-4
