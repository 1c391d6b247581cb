"""The family of forecasts: coefficients and weights, plans on other steps, plans between plans."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from c4d.backends import load
from c4d.core.caching.noise import COORDINATES
from c4d.core.caching.profile import Calibrated, Profile, ProfileError, mismatch
from c4d.core.caching.solver import (
    FEATURES,
    HALF_SLOPE,
    Plan,
    blended,
    coefficients_of,
    corrected_weights,
    correction_of,
    weights_of,
)
from c4d.core.runtime.history import History, HistoryConfig
from c4d.core.runtime.signals import SignalReader
from c4d.core.runtime.state import Runtime
from c4d.core.types import Step

LEVELS = [1.0, 0.9, 0.7, 0.4, 0.2]
numbers = st.floats(-3, 3)


@given(
    st.lists(numbers, min_size=5, max_size=5),
    st.integers(1, 3),
    st.sampled_from(sorted(COORDINATES)),
    st.lists(st.floats(0.05, 0.99), min_size=4, max_size=4, unique_by=lambda x: round(x, 2)),
)
def test_coefficients_and_weights_are_one_thing(c, held, kind, levels):
    levels = sorted(levels, reverse=True)
    past, now = levels[:3][-held:], levels[3]
    used = [c[0], c[1] if held > 1 else 0.0, c[2] if held > 2 else 0.0, c[3], c[4]]
    w = weights_of(c, past, now, COORDINATES[kind])
    assert len(w) == held + 2
    assert coefficients_of(w, past, now, COORDINATES[kind]) == pytest.approx(used, abs=1e-6)


@given(
    st.lists(numbers, min_size=6, max_size=6),
    st.integers(2, FEATURES),
    st.sampled_from(sorted(COORDINATES)),
    st.lists(st.floats(0.05, 0.99), min_size=FEATURES + 1, max_size=FEATURES + 1, unique_by=lambda x: round(x, 2)),
)
def test_corrections_and_their_weights_are_one_thing(c, held, kind, levels):
    *past, after = sorted(levels, reverse=True)
    past = past[-held:]
    used = [c[0], c[1], c[2] if held > 2 else 0.0, c[3] if held > 3 else 0.0, c[4], c[5]]
    w = corrected_weights(c, past, after, COORDINATES[kind])
    assert len(w) == held + 2
    assert correction_of(w, past, after, COORDINATES[kind]) == pytest.approx(used, abs=1e-5)


def test_a_correction_leaves_a_constant_output_and_takes_an_error_back_within_one_step():
    """With c0 = c5 = 0 a run whose output is the same everywhere goes on as it is. Half as far to the next step, twice
    the correction: it moves the sample by the same."""
    for kind, coordinate in COORDINATES.items():
        past, c, output, y_then = [0.9, 0.8, 0.6, 0.5], (0.0, 0.4, -0.3, 0.2, 0.8, 0.0), 1.7, 0.3
        moved = []
        for after in (0.4, 0.45):
            w = corrected_weights(c, past, after, coordinate)
            y_now = y_then + output * (coordinate.tau(0.5) - coordinate.tau(0.6))
            made = sum(w[:4]) * output + w[4] * y_now / coordinate.scale(0.5) + w[5] * y_then / coordinate.scale(0.6)
            assert made == pytest.approx(output), kind
            moved.append([(coordinate.tau(after) - coordinate.tau(0.5)) * x for x in (w[3] - 1.0, *w[:3], *w[4:])])
        assert moved[0] == pytest.approx(moved[1])


def test_half_a_slope():
    assert weights_of(HALF_SLOPE, [0.8, 0.6], 0.5, COORDINATES["flow"]) == pytest.approx([-0.25, 1.25, 0.0, 0.0])
    assert weights_of(HALF_SLOPE, [0.6], 0.5, COORDINATES["flow"]) == [1.0, 0.0, 0.0]


def test_a_constant_output_is_forecast_whatever_the_slopes():
    """The latents have moved by what was stepped with: with c0 = c4 = 0 such a run goes on as it is."""
    for kind, coordinate in COORDINATES.items():
        past, now, output = [0.9, 0.8, 0.6], 0.5, 1.7
        w = weights_of((0.0, 0.4, -0.3, 0.8, 0.0), past, now, coordinate)
        y_then = 0.3
        y_now = y_then + output * (coordinate.tau(now) - coordinate.tau(past[-1]))
        x_now, x_then = y_now / coordinate.scale(now), y_then / coordinate.scale(past[-1])
        made = sum(w[:3]) * output + w[3] * x_now + w[4] * x_then
        assert made == pytest.approx(output), kind


@pytest.mark.parametrize("kind", COORDINATES)
def test_the_scaled_latents_move_by_the_output(kind):
    """d(g x) / d tau is what the model of that kind predicts, for fixed data and noise."""
    coordinate, data, noise, n, h = COORDINATES[kind], 0.7, -1.3, 0.6, 1e-6

    def x(n):
        return (1 - n if kind == "flow" else (1 - n * n) ** 0.5) * data + n * noise

    def y(n):
        return coordinate.scale(n) * x(n)

    a = (1 - n * n) ** 0.5
    wanted = {"flow": noise - data, "epsilon": noise, "v": a * noise - n * data}[kind]
    slope = (y(n + h) - y(n - h)) / (coordinate.tau(n + h) - coordinate.tau(n - h))
    assert slope == pytest.approx(wanted, rel=1e-5)


def plan(*computed, steps=10):
    levels = [1 - i / steps for i in range(steps)]
    between = [(levels[i], (0.1 * i, 0.5, 0.0, 0.0, 0.0)) for i in range(steps) if i not in computed]
    return Plan(tuple(levels[i] for i in computed), tuple(between)), levels


def test_a_plan_finds_its_own_steps_and_coefficients():
    made, levels = plan(0, 1, 4, 7)
    assert made.steps(levels) == {0, 1, 4, 7}
    assert made.coefficients(levels[4], levels[6]) == pytest.approx((0.6, 0.5, 0, 0, 0))
    assert made.coefficients(levels[7], levels[9]) == pytest.approx((0.9, 0.5, 0, 0, 0))


def test_a_plan_on_other_steps():
    made, _ = plan(0, 1, 4, 7)
    twice = [1 - i / 20 for i in range(20)]
    assert made.steps(twice) == {0, 2, 8, 14}
    assert made.coefficients(0.6, 0.45) == pytest.approx((0.55, 0.5, 0, 0, 0))  # between those of 0.5 and of 0.4
    assert made.steps([1.0, 0.5]) == {0, 1}  # a run of fewer steps than the plan computes


def corrected(made):
    return Plan(made.computed, made.between, tuple((n, (0.1, n, 0.0, 0.0, 0.2, 0.0)) for n in made.computed[2:]))


def test_a_plan_finds_its_corrections():
    made = corrected(plan(0, 1, 4, 7)[0])
    assert made.correction(1.0) is made.correction(0.9) is None
    assert made.correction(0.6) == made.correction(0.62) == (0.1, 0.6, 0.0, 0.0, 0.2, 0.0)
    several = blended(made, corrected(plan(0, 1, 2, 3, 5, 6, 7, 8)[0]), 6)
    assert [n for n, _ in several.corrected] == list(several.computed[2:])
    assert [c[0] for _, c in several.corrected] == pytest.approx([0.05, 0.1, 0.1, 0.1])  # the first is of many alone


def test_a_computed_step_is_handed_on_corrected():
    made = corrected(plan(0, 1, 4, 7)[0])
    run = Step(0, 5, "cond", levels=(1.0, 0.8, 0.6, 0.5, 0.2))
    ahead = Calibrated(lambda total: made, COORDINATES["flow"]).of_run(run)
    assert ahead.handed_on([1.0]) is None and ahead.handed_on([1.0, 0.9]) is None
    wanted = corrected_weights(made.correction(0.6), [1.0, 0.9, 0.6], 0.5, COORDINATES["flow"])
    assert ahead.handed_on([1.0, 0.9, 0.6]) == wanted
    last = corrected_weights(made.correction(0.2), [1.0, 0.9, 0.6, 0.2], 0.0, COORDINATES["flow"])
    assert ahead.handed_on([1.0, 0.9, 0.6, 0.2]) == last
    late = replace(ahead, levels=(0.7, 0.6, 0.5, 0.3, 0.2))
    assert late.handed_on([0.7, 0.6]) is None, "no step was skipped, and so none is to be repaired"
    assert late.handed_on([0.7, 0.6, 0.3]) is not None
    assert ahead.weights([1.0, 0.9, 0.6, 0.5], 0.4) == [0.0, *ahead.weights([0.9, 0.6, 0.5], 0.4)]


def test_a_run_that_begins_later_leaves_out_what_is_above():
    made, levels = plan(0, 1, 4, 7)
    assert made.steps(levels[3:]) == {0, 1, 4}  # its own first step, and those at 0.6 and 0.3


@pytest.mark.parametrize("count", [5, 6, 7])
def test_plans_between_plans(count):
    few, levels = plan(0, 1, 4, 7)
    many, _ = plan(0, 1, 2, 3, 5, 6, 7, 8)
    made = blended(few, many, count)
    assert len(made.computed) == count and made.computed[0] == 1.0
    assert len(made.steps(levels)) == count
    assert all(made.coefficients(n, n - 0.05)[1] == 0.5 for n in made.computed)


def test_bad_plans_are_refused():
    with pytest.raises(ValueError, match="have to fall"):
        Plan((0.5, 0.9))
    with pytest.raises(ValueError, match="have to fall"):
        Plan((0.9, 0.5), ((0.95, HALF_SLOPE),))
    with pytest.raises(ValueError, match="finite"):
        Plan((0.9, 0.5), ((0.7, (float("nan"), 0.5, 0.0, 0.0, 0.0)),))
    with pytest.raises(ValueError, match="not the first"):
        Plan((0.9, 0.5), (), ((0.9, (0.0,) * 6),))
    with pytest.raises(ValueError, match="six finite"):
        Plan((0.9, 0.5), (), ((0.5, (0.0,) * 5),))


def test_a_profile_goes_through_its_file(tmp_path):
    made, _ = plan(0, 1, 4, 7)
    more = corrected(plan(0, 1, 2, 4, 5, 7)[0])
    measured = {4: {"fit": {"samples": 2}}}
    profile = Profile("flow", {4: made, 6: more}, {"transformer": "A", "config": {"n": 1}}, {"steps": 10}, measured, 4)
    profile.save(tmp_path / "p.json")
    back = Profile.load(tmp_path / "p.json")
    assert back.plans == profile.plans and back.made_for == profile.made_for and back.about == profile.about
    assert back.computed == 4 and back.measured[4] == measured[4]
    assert len(back.plan(5).computed) == 5
    with pytest.raises(ProfileError, match="computed=7 is outside of this profile, which has 4 to 6"):
        back.plan(7)
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_a_profile_of_the_first_version_corrects_nothing(tmp_path):
    made = corrected(plan(0, 1, 4, 7)[0])
    found = Profile("flow", {4: made}).to_dict()
    assert Profile.from_dict(found).plans[4] == made
    del found["plans"]["4"]["corrected"]
    assert Profile.from_dict({**found, "version": 1}).plans[4] == Plan(made.computed, made.between)


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "Expecting value"),
        ("[]", "it is no profile"),
        ('{"format": "c4d profile", "version": 9}', "version 9"),
        ('{"format": "c4d profile", "version": 1, "kind": "flow"}', "broken"),
        ('{"format": "c4d profile", "version": 1, "kind": "x", "made_for": null, "plans": {}}', "unknown kind"),
    ],
)
def test_broken_files_are_told(tmp_path, text, said):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ProfileError, match=said):
        Profile.load(tmp_path / "p.json")


def test_whose_a_profile_is():
    made_for = {"transformer": "A", "config": {"num_layers": 40, "old": 1}}
    assert mismatch(None, {"transformer": "B"}) is None
    assert mismatch(made_for, {"transformer": "A", "config": {"num_layers": 40, "new": 2}}) is None
    assert "made for A, and this is B" in mismatch(made_for, {"transformer": "B", "config": {}})
    assert "num_layers=40, and this has 30" in mismatch(made_for, {"transformer": "A", "config": {"num_layers": 30}})


def test_profiles_stay_small():
    made, _ = plan(*range(0, 50, 2), steps=50)
    assert len(json.dumps(Profile("flow", {25: made}).to_dict())) < 20_000


def test_a_corrected_output_keeps_its_precision_where_features_are_stored_in_less():
    storage, backend = HistoryConfig(torch.bfloat16), load("cpu")
    tools, history = Runtime(backend, SignalReader(backend, None), storage), History(FEATURES, storage, backend)
    first, own, now, then = torch.randn(4, 1, 64, generator=torch.Generator().manual_seed(0))
    for time, x in ((1.0, first), (0.5, own)):
        history.push(time, [x])
    (made,) = tools.corrected(history, [-0.25, 1.25, 0.5, -0.5], [own], [(now, then)])
    wanted = -0.25 * first.bfloat16().float() + 1.25 * own + 0.5 * now - 0.5 * then
    assert made.dtype == torch.float32 and torch.allclose(made, wanted, atol=1e-6)
