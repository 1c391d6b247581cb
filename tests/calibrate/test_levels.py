"""Plain steps at chosen noise levels: what schedulers do with them, and the search for them."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.levels import Chosen, searched, takes_levels
from c4d.calibrate.search import Journal

FLOW = diffusers.FlowMatchEulerDiscreteScheduler


@pytest.mark.parametrize(
    "name, takes",
    [
        ("FlowMatchEulerDiscreteScheduler", True),
        ("UniPCMultistepScheduler", True),
        ("DPMSolverMultistepScheduler", True),
        ("DDIMScheduler", False),
        ("HeunDiscreteScheduler", False),
    ],
)
def test_which_schedulers_take_levels(name, takes):
    scheduler = getattr(diffusers, name)()
    before = dict(scheduler.__dict__)
    assert takes_levels(scheduler) is takes
    assert {k: id(v) for k, v in scheduler.__dict__.items()} == {k: id(v) for k, v in before.items()}, "as it was"


@pytest.mark.parametrize("steps", [(0, 3, 4, 9), (0, 1), range(10)])
@pytest.mark.parametrize("given", ["nothing", "sigmas"])
def test_a_run_has_the_levels_of_a_longer_one(steps, given):
    scheduler, longer = FLOW(use_dynamic_shifting=given == "sigmas"), FLOW(use_dynamic_shifting=given == "sigmas")

    def begin(one, count):
        if given == "sigmas":
            one.set_timesteps(sigmas=np.linspace(1.0, 1 / count, count), mu=0.8)
        else:
            one.set_timesteps(count)

    begin(longer, 10)
    with Chosen(scheduler, steps, 10):
        begin(scheduler, len(steps))
    assert torch.equal(scheduler.timesteps, longer.timesteps[list(steps)])
    assert torch.equal(scheduler.sigmas, longer.sigmas[[*steps, 10]])
    begin(scheduler, 10)
    assert torch.equal(scheduler.timesteps, longer.timesteps), "the block has been left"


def test_levels_of_the_pipeline_itself_are_refused():
    scheduler = FLOW()
    with Chosen(scheduler, [0, 4], 10), pytest.raises(CalibrationError, match="not evenly spaced"):
        scheduler.set_timesteps(sigmas=[1.0, 0.9])


def sampler(scheduler, total):
    """A curved flow, of which uniform steps are not the best; its result, and how often it was run."""
    runs = []

    def make(count):
        runs.append(count)
        scheduler.set_timesteps(count)
        x = torch.linspace(-1, 1, 8).reshape(2, 4)
        for t in scheduler.timesteps:
            level = float(t) / 1000
            x = scheduler.step(x * (8 * level**6 - 1), t, x).prev_sample
        return x

    return make, runs


def test_the_search_finds_closer_ones_and_goes_on(tmp_path):
    scheduler, total = FLOW(), 20
    make, runs = sampler(scheduler, total)
    reference, start = make(total), [0, 5, 10, 15]

    def at(steps):
        with Chosen(scheduler, steps, total):
            return make(4)

    def missed(steps):
        return float((at(steps) - reference).square().mean())

    journal = tmp_path / "journal.jsonl"
    steps, tried = searched(at, reference, start, total, 60.0, Journal(journal))
    assert steps[0] == 0 and len(steps) == 4 and missed(steps) < 0.5 * missed(start)
    runs.clear()
    again, also = searched(at, reference, start, total, 60.0, Journal(journal))
    assert again == steps and also == tried and runs == [], "all of it was in the journal"
    assert searched(at, reference, start, total, 0.0)[0] == start
