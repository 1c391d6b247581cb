"""One plan for several models: the mean of what they ask for."""

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
from c4d.calibrate.joint import Setting, fit_jointly, mean_plan, results
from c4d.calibrate.reference import record
from c4d.calibrate.starts import BEGIN, SHAPES, Shape
from c4d.core.caching.solver import Plan
from tests.calibrate.test_fit import FLOW, Curved, samplings
from tools.as_flow import AsFlow

COMPUTED = frozenset((0, 1, 2, 5, 9))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def setting(name, scheduler, model=None, **more):
    job = samplings(model or Curved(), scheduler, **more)
    return Setting(name, Fit(job, record(job)))


class Other(Curved):
    def forward(self, hidden_states, timestep):
        return 1.5 * torch.cos(2.0 * hidden_states + float(timestep) / 300)


def test_the_mean_of_plans_keeps_a_part_of_what_differs_from_half_a_slope():
    one = Plan((1.0, 0.5), ((0.75, (0.2, 1.5, 3.0, 0.4, -0.2)),))
    other = Plan((1.0, 0.5), ((0.76, (0.0, 0.5, 1.0, 0.0, 0.4)),))
    mean = mean_plan([one, other], (0.5, 0.8, 0.0, 1.0, 1.0))
    assert mean.computed == (1.0, 0.5) and mean.between[0][0] == 0.75
    assert mean.between[0][1] == pytest.approx((0.05, 0.9, 0.0, 0.2, 0.1))


def test_gaps_rise_and_fall_smoothly():
    shape = Shape(0.25, 0.12, 1.0, 0.6)
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    gap = shape.gap(u)
    assert gap[[0, -1]].tolist() == pytest.approx([0.25, 0.12]) and float(gap.max()) == pytest.approx(1.0, abs=1e-5)
    assert float(u[gap.argmax()]) == pytest.approx(1.0 / 1.6, abs=2e-3)
    steps = sorted(shape.steps(14, 50))
    assert steps == [0, 2, 4, 6, 9, 13, 17, 22, 27, 33, 38, 43, 47, 49]
    even = Shape(1.0, 1.0, 1.0, 1.0)
    assert sorted(even.steps(4, 14)) == [0, 4, 8, 12]  # the last gap is half as long


@pytest.mark.parametrize("shape", {*SHAPES, *BEGIN})
@pytest.mark.parametrize(("count", "total"), [(2, 50), (6, 50), (25, 50), (10, 12), (49, 50)])
def test_a_shape_gives_as_many_steps_as_are_asked_for(shape, count, total):
    steps = shape.steps(count, total)
    assert len(steps) == count and 0 in steps and max(steps) < total


def test_a_plan_that_is_trusted_whole_is_the_fit_of_the_only_setting():
    only = setting("unipc", UniPCMultistepScheduler(**FLOW))
    plan = fit_jointly([only], COMPUTED, trust=(1.0,) * 5)
    alone = only.fit.but(corrects_from=1.0)
    own = alone.plan(alone.follow(COMPUTED))
    assert plan.computed == own.computed
    for (_, a), (_, b) in zip(plan.between, own.between, strict=True):
        assert a == pytest.approx(b)


def test_what_models_have_in_common_serves_both_better_than_reuse():
    settings = [
        setting("one", UniPCMultistepScheduler(**FLOW)),
        setting("other", UniPCMultistepScheduler(**FLOW), Other()),
    ]
    plan = fit_jointly(settings, COMPUTED)
    for each in settings:
        reused = each.fit.follow(COMPUTED, weights=lambda i, anchors: [0.0] * (len(anchors) - 1) + [1.0, 0.0, 0.0])
        assert results([each], plan)[each.name].mean() < 0.7 * each.fit.errors(reused).mean()


def test_settings_that_do_not_go_together():
    first = setting("euler", FlowMatchEulerDiscreteScheduler(shift=3.0))
    for other in (
        setting("noise", DDIMScheduler(clip_sample=False)),
        setting("short", FlowMatchEulerDiscreteScheduler(shift=3.0), steps=6),
    ):
        with pytest.raises(CalibrationError, match=f"{other.name} and euler differ"):
            fit_jointly([first, other], COMPUTED)


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
