"""One plan for several settings: what they agree on, and how it is doubted where they do not."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import Fit
from c4d.calibrate.joint import Setting, fit_jointly, results
from c4d.calibrate.reference import record
from tests.calibrate.test_fit import FLOW, Curved, samplings

COMPUTED = frozenset((0, 1, 2, 5, 9))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def setting(name, scheduler, group="one", model=None, **more):
    job = samplings(model or Curved(), scheduler, **more)
    return Setting(name, group, Fit(job, record(job)))


def test_jointly_over_one_it_is_the_fit_of_one():
    only = setting("unipc", UniPCMultistepScheduler(**FLOW))
    plan = fit_jointly([only], COMPUTED)
    own = only.fit.plan(only.fit.follow(COMPUTED))
    assert plan.computed == own.computed
    errors = results([only], plan)["unipc"], only.fit.errors(only.fit.follow(COMPUTED))
    assert errors[0].mean() == pytest.approx(float(errors[1].mean()), rel=0.2)


def test_samplers_share_a_plan():
    both = [setting("unipc", UniPCMultistepScheduler(**FLOW)), setting("dpm++", DPMSolverMultistepScheduler(**FLOW))]
    plan = fit_jointly(both, COMPUTED)
    for each in both:
        reused = each.fit.follow(COMPUTED, weights=lambda i, anchors: [0.0] * (len(anchors) - 1) + [1.0, 0.0, 0.0])
        assert results([each], plan)[each.name].mean() < 0.9 * each.fit.errors(reused).mean()


def test_where_groups_disagree_it_is_closer_to_half_a_slope():
    class Other(Curved):
        def forward(self, hidden_states, timestep):
            return 3.0 * torch.cos(9.0 * hidden_states + float(timestep) / 100)

    pair = [
        setting("one", UniPCMultistepScheduler(**FLOW)),
        setting("other", UniPCMultistepScheduler(**FLOW), "other", Other()),
    ]

    def off(plan):
        return sum(abs(a - b) for _, c in plan.between for a, b in zip(c, (0, 0.5, 0, 0, 0), strict=True))

    bold, wary = (off(fit_jointly(pair, COMPUTED, wary=wary)) for wary in (0.0, 5.0))
    assert wary < 0.7 * bold
    alike = [
        setting("one", UniPCMultistepScheduler(**FLOW)),
        setting("again", UniPCMultistepScheduler(**FLOW), "again"),
    ]
    assert off(fit_jointly(alike, COMPUTED, wary=5.0)) == pytest.approx(off(fit_jointly(alike, COMPUTED)), rel=1e-6)


def test_settings_that_do_not_go_together():
    first = setting("euler", FlowMatchEulerDiscreteScheduler(shift=3.0))
    for other in (
        setting("noise", DDIMScheduler(clip_sample=False)),
        setting("short", FlowMatchEulerDiscreteScheduler(shift=3.0), steps=6),
    ):
        with pytest.raises(CalibrationError, match=f"{other.name} and euler differ"):
            fit_jointly([first, other], COMPUTED)
