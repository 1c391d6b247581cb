"""The baselines that bench.profiles writes from their papers, and its page."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from bench.profiles import page
from bench.profiles.baselines import MeanCache, budcache
from c4d.calibrate.reference import record
from tests.calibrate.test_fit import Curved, samplings

STEPS = 10


def test_budcache_finds_the_steps_that_cost_least():
    wanted = {0, 1, 2, 4, 9, 15}
    tried = []

    def loss(steps):
        assert len(steps) == 6 and steps[0] == 0 and sorted(set(steps)) == list(steps)
        tried.append(tuple(steps))
        return sum(min(abs(step - other) for other in steps) for step in wanted) / 10

    assert set(budcache(loss, 6, 20)) == wanted
    assert len(tried) == len(set(tried)) < 320


class Straight(nn.Module):
    """A velocity that is linear in the timestep and the same everywhere."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, hidden_states, timestep):
        return torch.full_like(hidden_states, 1.0 + self.slope * float(timestep) / 1000)


def results(job):
    """What each sampling ends with, in the order of the samplings."""
    made, begun = {}, job.generate

    def generate(i):
        made[i] = begun(i)

    job.generate = generate
    return made


@torch.no_grad()
def test_meancache_reuses_what_stays_and_extrapolates_what_rises():
    kept = MeanCache.planned(record(samplings(Straight(0.0), FlowMatchEulerDiscreteScheduler(), steps=STEPS)), 3)
    assert len(kept.orders) == 3 and 0 in kept.orders and set(kept.orders.values()) == {1}
    rising = MeanCache.planned(record(samplings(Straight(2.0), FlowMatchEulerDiscreteScheduler(), steps=STEPS)), 4)
    assert any(k > 1 for k in rising.orders.values())


@torch.no_grad()
def test_meancache_does_what_its_formula_says():
    """By hand: a loop over one sampling of a model that is not linear."""
    model, orders = Curved(), {0: 1, 2: 2, 3: 3, 7: 2}
    job = samplings(model, FlowMatchEulerDiscreteScheduler(), count=2, steps=STEPS)
    reference = record(job)
    made = results(job)
    model.calls = 0
    with MeanCache(orders).at_work(model, job.scheduler, reference.levels):
        for i in range(job.count):
            job.generate(i)
    assert model.calls == len(orders) * job.count and len(made) == 2
    job.scheduler.set_timesteps(STEPS)
    levels = [*reference.levels, 0.0]
    for i in range(2):
        x, v, xs, k = reference.track.samples[0][i], [], [], 1
        for step in range(STEPS):
            xs.append(x)
            if step in orders:
                k = orders[step]
                v.append(model(x, job.scheduler.timesteps[step]))
            else:
                start = max(0, step - k)
                span = levels[step] - levels[start]
                slope = (v[start] - (x - xs[start]) / span) / span if k > 1 else 0.0
                v.append(v[-1] - slope * (levels[step + 1] - levels[step]))
            x = x + (levels[step + 1] - levels[step]) * v[-1]
        assert torch.allclose(made[i], x, atol=1e-5)


def row(kind, computed, *psnr):
    return {"kind": kind, "computed": computed, "psnr": list(psnr)}


def test_the_page_shows_the_closest_of_those_that_cost_no_more():
    rows = {
        "profile:x,computed=14": row("profile", 14, 50.0, 40.0),
        "14 plain steps": row("plain", 14, 40.0, 30.0),
        "cheap": row("method", 14.4, 42.0, 38.0),
        "cheaper": row("method", 10, 41.0, 30.0),
        "dear": row("method", 15, 60.0, 60.0),
        "budcache,computed=14": row("baseline", 14, 35.0, 33.0),
    }
    head, _, line = page.table(rows)
    assert head == "| computed | profile | plain | best method | BudCache |"
    assert line.startswith("| 14 | 45.0 / 40.0 | 35.0 / 30.0 (+10.0")
    assert "`cheap` 40.0 / 38.0 (+5.0" in line and "34.0 / 33.0 (+11.0" in line


@pytest.mark.parametrize("kind", ["between", "plain between"])
def test_interpolated_numbers_of_steps_have_a_table_of_their_own(kind):
    rows = {"profile:x,computed=9": row(kind, 9, 50.0)}
    assert len(list(page.table(rows))) == 2
    assert len(list(page.between(rows))) == (3 if kind == "between" else 2)
