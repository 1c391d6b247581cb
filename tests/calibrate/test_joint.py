"""One plan for several models: the mean of what they ask for, judged on the models that it is not of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import Fit
from c4d.calibrate.joint import Setting, Together, mean_plan, results
from c4d.calibrate.reference import record
from c4d.calibrate.search import Allowance, score
from c4d.core.caching.solver import Plan
from tests.calibrate.test_fit import FLOW, Curved, samplings
from tools.as_flow import AsFlow

COMPUTED = frozenset((0, 1, 2, 5, 9))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def setting(name, scheduler, group="one", model=None, **more):
    job = samplings(model or Curved(), scheduler, **more)
    return Setting(name, group, Fit(job, record(job)))


class Other(Curved):
    def forward(self, hidden_states, timestep):
        return 1.5 * torch.cos(2.0 * hidden_states + float(timestep) / 300)


def pair():
    return [
        setting("one", UniPCMultistepScheduler(**FLOW)),
        setting("other", UniPCMultistepScheduler(**FLOW), "other", Other()),
    ]


def test_the_mean_of_plans_keeps_a_part_of_what_differs_from_half_a_slope():
    one = Plan((1.0, 0.5), ((0.75, (0.2, 1.5, 3.0, 0.4, -0.2)),))
    other = Plan((1.0, 0.5), ((0.76, (0.0, 0.5, 1.0, 0.0, 0.4)),))
    mean = mean_plan([one, other], (0.5, 0.8, 0.0, 1.0, 1.0))
    assert mean.computed == (1.0, 0.5) and mean.between[0][0] == 0.75
    assert mean.between[0][1] == pytest.approx((0.05, 0.9, 0.0, 0.2, 0.1))


def test_a_plan_that_is_trusted_whole_is_the_fit_of_the_only_setting():
    only = setting("unipc", UniPCMultistepScheduler(**FLOW))
    plan = Together([only], trust=(1.0,) * 5).plan(COMPUTED)
    own = only.fit.plan(only.fit.follow(COMPUTED))
    assert plan.computed == own.computed
    for (_, a), (_, b) in zip(plan.between, own.between, strict=True):
        assert a == pytest.approx(b)


def test_each_setting_is_judged_with_what_the_other_model_asks_for():
    one, other = pair()
    found = Together([one, other]).scores(COMPUTED)
    for mine, its in ((one, other), (other, one)):
        plan = mean_plan([its.fit.plan(its.fit.follow(COMPUTED))])
        assert found[mine.name] == pytest.approx(score(results([mine], plan)[mine.name]), abs=1e-6)
        own = mean_plan([mine.fit.plan(mine.fit.follow(COMPUTED))])
        assert found[mine.name] != pytest.approx(score(results([mine], own)[mine.name]), abs=1e-2)


def test_the_search_finds_steps_that_serve_both_better():
    search, told = Together(pair()), []
    search._told = lambda computed, found, best, left: told.append(computed)
    even = frozenset((0, 2, 4, 6, 8))
    best = search.run([even, COMPUTED], Allowance(25))
    assert search.journal[best] < min(search.journal[even], search.journal[COMPUTED])
    assert search.journal[best] == pytest.approx(sum(Together(pair()).scores(best).values()) / 2, abs=1e-6)
    assert 10 < len(told) == len(set(told)) <= 25


def test_settings_that_do_not_go_together():
    first = setting("euler", FlowMatchEulerDiscreteScheduler(shift=3.0))
    for other in (
        setting("noise", DDIMScheduler(clip_sample=False)),
        setting("short", FlowMatchEulerDiscreteScheduler(shift=3.0), steps=6),
    ):
        with pytest.raises(CalibrationError, match=f"{other.name} and euler differ"):
            Together([first, other])


def test_noise_that_is_predicted_well_is_the_right_flow():
    """For data that are ± 2 in every number, with classes that say which: noise and flow are known."""

    class Knows(nn.Module):
        config = SimpleNamespace(num_embeds_ada_norm=2, sample_size=2, in_channels=1)

        def forward(self, x, timestep, class_labels, return_dict):
            kept = scheduler.alphas_cumprod[timestep.round().long()].double()[:, None, None, None]
            data = torch.tensor([2.0, -2.0, 0.0])[class_labels][:, None, None, None]
            return (torch.cat([(x - kept.sqrt() * data) / (1 - kept).sqrt(), x], 1),)  # and a variance

    scheduler = DDIMScheduler(num_train_timesteps=1000)
    kept = scheduler.alphas_cumprod[400].double()
    a, b = kept.sqrt(), (1 - kept).sqrt()
    level = float(b / (a + b))
    noise = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    data = torch.tensor([2.0, -2.0], dtype=torch.float64)[:, None, None, None]
    pipe = SimpleNamespace(transformer=Knows(), scheduler=scheduler)
    flow = AsFlow(pipe, 1.0)((1 - level) * data + level * noise, level, torch.tensor([0, 1]))
    assert torch.allclose(flow, noise - data, atol=1e-6)
    guided = AsFlow(pipe, 3.0)((1 - level) * data + level * noise, level, torch.tensor([0, 1]))
    assert (guided - noise + data).abs().max() > 0.1
