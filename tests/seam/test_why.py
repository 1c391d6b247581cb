"""A cache that never hits says why."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import c4d
from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.policies import Bounded
from c4d.core.caching.rules import CacheMethod, ModuleRule
from c4d.core.methods.pab import PyramidPolicy
from c4d.core.types import Action, Policy
from tests.tiny import CASES, rand

CASE = CASES["wan-t2v"]
TEA = "teacache:coefficients=1/0,signal=time_projection"


def report_of(method, steps=5, inputs=None):
    model, x = CASE.build(), rand(*CASE.latents)
    with c4d.cached(model, method) as session:
        session.begin([1.0] * steps)
        for i in range(steps):
            CASE.run(model, x if inputs is None else inputs(i), 1000.0 - 100.0 * i)
    return session.report()


@pytest.mark.parametrize(
    ("method", "steps", "said"),
    [
        ("fora:interval=1", 5, "at attn, cross_attn, mlp: interval=1 computes every step"),
        ("taylorseer:interval=3,warmup=5", 5, "warmup=5 computes the first 5 steps, and the run has 5"),
        ("schedule:computed=0/1/2", 3, "at blocks: all 3 steps of the run are listed as computed"),
        (f"{TEA},threshold=1e9", 2, "the first 1 and last 1 steps are always computed, and the run has 2"),
        (f"{TEA},threshold=1e-9", 5, "the smallest rescaled change of time_projection was"),
        ("first-block:threshold=1e-9", 5, "the smallest change of first_blocks was"),
    ],
)
def test_a_method_that_reused_nothing_says_why(method, steps, said):
    report = report_of(method, steps)
    assert report.reused == 0 and len(report.why) == 1
    assert report.why[0].startswith("nothing was reused at ") and said in report.why[0] and said in str(report)
    assert report.to_dict()["why"] == list(report.why)


@pytest.mark.parametrize("method", ["fora:interval=2", "first-block:threshold=1e9", f"{TEA},threshold=1e9"])
def test_a_method_that_reuses_has_nothing_to_explain(method):
    report = report_of(method)
    assert report.reused > 0 and report.why == () and "note" not in str(report)


def test_the_smallest_change_named_is_one_that_could_have_been_reused():
    """A tiny change on the last step, which is computed whatever it measures, explains nothing."""
    still = [0, 1, 2, 3, 3]
    report = report_of("first-block:threshold=0.05", inputs=lambda i: rand(*CASE.latents, seed=still[i]))
    assert report.reused == 0 and float(report.why[0].split("first_blocks was ")[1].split(",")[0]) > 0.05


def test_shapes_that_change_every_time_are_said():
    shapes = [(1, 4, 2, 16, 16), (1, 4, 2, 8, 16)]
    report = report_of("taylorseer-lite:interval=3", inputs=lambda i: rand(*shapes[i % 2]))
    assert report.reused == 0
    assert report.why == (
        "4 of 5 forwards had inputs of another shape or dtype than the last on their branch and began anew",
    )


def test_one_of_two_rules_may_be_idle_alone_and_need_not_explain_itself():
    @dataclass(frozen=True)
    class Always(Policy):
        def init(self):
            return None

        def decide(self, state, step, seen):
            return Action.COMPUTE, None

    reuse = c4d.methods.fora(interval=2).rules[0].policy
    method = CacheMethod("two", (ModuleRule(reuse, Reuse(), ("attn",)), ModuleRule(Always(), Reuse(), ("mlp",))))
    assert report_of(method).why == ("nothing was reused at mlp: Always computed every step",)


def test_a_schedule_that_goes_beyond_the_run_says_so():
    report = report_of("schedule:computed=0/2/7/9", 5)
    assert report.timelines == {"0": "CrCrr"}
    assert report.why == ("listed as computed, but beyond this run of 5 steps (0 to 4): 7, 9",)


def test_a_limited_policy_still_gets_its_timesteps():
    """It decides by the scheduler's timesteps, which the limit around it asks for too."""
    model = CASE.build()
    limited = CacheMethod("limited", (ModuleRule(Bounded(PyramidPolicy(2, 100.0, 800.0)), Reuse(), ("attn",)),))
    with c4d.cached(model, limited) as session:
        session.begin([900.0, 700.0, 600.0, 500.0, 400.0, 50.0])
        for t in (900.0, 700.0, 600.0, 500.0, 400.0, 50.0):
            CASE.run(model, rand(*CASE.latents), t)
    assert session.report().timelines == {"0": "CrCrCC"}
