"""``c4d.tune`` on whole pipelines, the profile at work, and what is chosen where nobody chose."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

import c4d
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import Fit
from c4d.calibrate.lockstep import Samplings
from c4d.calibrate.pipeline import asked, sampling
from c4d.calibrate.reference import record
from c4d.calibrate.search import score, stretched
from c4d.calibrate.tune import latents_given
from c4d.core.caching.profile import Profile, ProfileError
from c4d.core.caching.profiles import QUALITIES, for_model
from c4d.core.caching.solver import Plan
from c4d.core.caching.step_search import evenly
from c4d.core.integration.transformers import signature
from c4d.core.runtime.choice import choose_method
from c4d.models import spec_for
from tests import pipes

STEPS = 14
VIDEO = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8, "guidance_scale": 3.0}
PROMPTS = ["a red circle", "a blue square"]


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """No profiles but those of a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with torch.no_grad():
        yield


def pipeline(kind):
    """Of random weights: the pipeline, and what it is called with."""
    if kind == "wan":
        pipe, call = pipes.text_to_video()[0], VIDEO
    elif kind == "two experts":
        pipe, more = pipes.two_experts()
        call = {**VIDEO, **more}
    elif kind == "flux":
        pipe = pipes.flux_with_text()
        pipe.text_encoder.eval(), pipe.text_encoder_2.eval()
        call = {"height": 32, "width": 32, "max_sequence_length": 16}
    else:
        pipe, _ = pipes.dit()
        pipe.scheduler, call = DDIMScheduler(clip_sample=False), {"guidance_scale": 3.0}
        pipe.labels = dict(zip(PROMPTS, (3, 5), strict=True))
    pipe.set_progress_bar_config(disable=True)
    return pipe, {"num_inference_steps": STEPS, **call}


def latents(pipe, call):
    """Of both prompts, under the noise that tune gives them."""
    made = {"class_labels": [3, 5]} if hasattr(pipe, "get_label_ids") else {"prompt": PROMPTS}
    found = []
    step = pipe.scheduler.step

    def keep(*args, **kwargs):
        out = step(*args, **kwargs)
        found.append(out[0] if isinstance(out, tuple) else out.prev_sample)
        return out

    pipe.scheduler.step = keep
    try:
        pipe(**made, generator=[torch.Generator().manual_seed(k) for k in range(2)], output_type="latent", **call)
    finally:
        del pipe.scheduler.step
    return found[-1]


@pytest.mark.parametrize("kind", ["wan", "flux", "dit", "two experts"])
def test_a_profile_does_in_the_pipeline_what_it_did_in_the_fit(kind, tmp_path):
    pipe, call = pipeline(kind)
    plain = latents(pipe, call)
    scheduler, attributes = dict(vars(pipe.scheduler)), set(vars(pipe.transformer))
    profile = c4d.tune(pipe, prompts=PROMPTS, computed=5, minutes=0, **call)
    assert set(vars(pipe.transformer)) == attributes and vars(pipe.scheduler).keys() == scheduler.keys()
    assert torch.equal(latents(pipe, call), plain), "the pipeline is no longer what it was"
    profile.save(tmp_path / "p.json")
    with c4d.cached(pipe, f"profile:{tmp_path}/p.json") as session:
        made = latents(pipe, call)
    report = session.report()
    branches = len({entry.step.branch for entry in session.trace})
    assert report.computed == len(profile.plans[5].computed) * branches
    error = (made - plain).double().pow(2).flatten(1).mean(1) / plain.double().pow(2).mean()
    decibels = -10 * error.log10()
    assert float(decibels.mean()) == pytest.approx(profile.measured[5]["fit"]["db_mean"], abs=0.6)
    assert profile.about["latents"] and profile.about["steps"] == STEPS
    assert profile.made_for == json.loads(json.dumps(signature(pipe.transformer)))


def test_the_first_step_of_each_expert_is_computed(tmp_path):
    pipe, call = pipeline("two experts")
    profile = c4d.tune(pipe, prompts=PROMPTS, computed=4, minutes=0, **call)
    profile.save(tmp_path / "p.json")
    with c4d.cached(pipe, f"profile:{tmp_path}/p.json") as session:
        latents(pipe, call)
    first = {entry.step.expert: entry for entry in reversed(session.trace) if entry.step.branch == "cond"}
    assert set(first) == {0, 1} and all(entry.computed for entry in first.values())


def test_a_loop_of_one_s_own(tmp_path):
    pipe, _ = pipeline("wan")
    model, scheduler = (
        pipe.transformer,
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )
    text = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(7))

    def generate(i):
        scheduler.set_timesteps(STEPS)
        x = torch.randn(1, 8, 2, 4, 4, generator=torch.Generator().manual_seed(i))
        for t in scheduler.timesteps:
            out = model(x, timestep=t[None], encoder_hidden_states=text, return_dict=False)[0]
            x = scheduler.step(out, t, x, return_dict=False)[0]
        return x

    plain = [generate(i) for i in range(3)]
    profile = c4d.tune(model, generate, samples=3, computed=(5, 7), trials=4, scheduler=scheduler)
    assert set(profile.plans) == {5, 6, 7}
    profile.save(tmp_path / "p.json")
    with c4d.cached(model, f"profile:{tmp_path}/p.json,computed=7", scheduler=scheduler) as session:
        made = [generate(i) for i in range(3)]
    assert session.report().computed == 7
    with c4d.cached(model, "schedule:computed=0/2/4/6/8/10/12+reuse@output", scheduler=scheduler):
        reused = [generate(i) for i in range(3)]
    for one, other, wanted in zip(made, reused, plain, strict=True):
        assert (one - wanted).norm() < 0.8 * (other - wanted).norm()


def test_an_interrupted_call_goes_on_to_the_same_profile(tmp_path):
    pipe, call = pipeline("wan")
    how = {"prompts": PROMPTS, "samples": 6, "computed": (5, 7), "trials": 6, **call}
    undisturbed = c4d.tune(pipe, **how)
    lines = 0

    def stop(line):
        nonlocal lines
        lines += 1
        if lines == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        c4d.tune(pipe, work=tmp_path, progress=stop, **how)
    said = []
    again = c4d.tune(pipe, work=tmp_path, progress=said.append, **how)
    assert said[0] == "reference samples: as they were kept"
    assert again.plans == undisturbed.plans and again.measured == undisturbed.measured


def test_one_prompt_is_enough(tmp_path):
    pipe, call = pipeline("wan")
    profile = c4d.tune(pipe, prompts=PROMPTS[:1], computed=5, minutes=0, **call)
    assert profile.measured[5]["fit"]["samples"] == 1
    searched = c4d.tune(pipe, prompts=PROMPTS[:1], computed=5, trials=3, **call)  # under other noise, too
    assert searched.measured[5]["fit"]["samples"] == 24


def test_a_search_begins_with_the_schedules_of_another_profile():
    """Without a search it is the one that is fitted; where it has none of so many steps, one is stretched."""
    pipe, call = pipeline("wan")
    _, reference = recorded(pipe, PROMPTS, call)
    odd = frozenset((0, 1, 2, 3, 12))
    levels = [reference.levels[i] for i in sorted(odd)]
    half = (0.0, 0.5, 0.0, 0.0, 0.0)
    between = tuple((n, half) for n in reference.levels if n not in levels)
    begin = Profile("flow", {5: Plan(tuple(levels), between)})
    profile = c4d.tune(pipe, prompts=PROMPTS, computed=(5, 4, 6), minutes=0, begin=begin, **call)
    found = {count: plan.steps(reference.levels) for count, plan in profile.plans.items()}
    assert (
        found[5] == odd
        and found[4] == stretched(sorted(odd), 4, STEPS)
        and found[6] == stretched(sorted(odd), 6, STEPS)
    )
    with pytest.raises(
        CalibrationError, match="begin is a profile of a model that predicts epsilon, and this one predicts"
    ):
        c4d.tune(pipe, prompts=PROMPTS, computed=5, minutes=0, begin=replace(begin, kind="epsilon"), **call)


def test_a_search_tries_even_spacing_too(tmp_path):
    pipe, call = pipeline("dit")
    c4d.tune(pipe, prompts=PROMPTS, samples=2, computed=5, trials=5, work=tmp_path, **call)
    tried = [json.loads(line)[0] for path in tmp_path.glob("scores-*") for line in path.read_text().splitlines()]
    assert evenly(5, STEPS) in tried


def test_numbers_between_those_that_are_asked_for_are_learned_too():
    pipe, call = pipeline("wan")
    how = {"prompts": PROMPTS, "samples": 4, "computed": (4, 8), **call}
    profile = c4d.tune(pipe, trials=24, **how)
    assert sorted(profile.plans) == [4, 5, 6, 7, 8]
    close = {count: profile.measured[count]["fit"]["db_mean"] for count in profile.plans}
    asked_for = replace(profile, plans={4: profile.plans[4], 8: profile.plans[8]})
    fit = Fit(*recorded(pipe, PROMPTS * 2, call))
    for between in (5, 6, 7):
        assert profile.measured[between]["tried"] == 6
        assert close[between] >= close[between - 1] - 0.3, "one computed step more makes it worse"
        assert missed(fit, profile.plan(between)) < missed(fit, asked_for.plan(between))
    assert sorted(c4d.tune(pipe, minutes=0, **how).plans) == [4, 8]


def missed(fit, plan):
    """The score of a plan on the samples of a fit: lower is better."""
    steps = plan.steps(fit.reference.levels)
    return score(fit.errors(fit.follow(steps, weights=fit.of_plan(plan))))


@pytest.mark.parametrize(
    "more, said",
    [
        ({"computed": STEPS}, "computed=14 of 14 steps leaves nothing to skip"),
        ({"computed": 1}, "give numbers of steps from 2"),
        ({"prompts": []}, "nothing to sample"),
    ],
)
def test_what_cannot_be_done_is_told(more, said):
    pipe, call = pipeline("wan")
    with pytest.raises(CalibrationError, match=said):
        c4d.tune(pipe, **{"prompts": PROMPTS, "minutes": 0, **call, **more})


def test_two_steps_leave_nothing():
    pipe, call = pipeline("wan")
    with pytest.raises(CalibrationError, match="computed=2 of 2 steps"):
        c4d.tune(pipe, prompts=PROMPTS, computed=2, **{**call, "num_inference_steps": 2})


def test_a_cached_model_is_refused():
    pipe, call = pipeline("wan")
    with c4d.cached(pipe, "fora:interval=2"), pytest.raises(CalibrationError, match="is cached"):
        c4d.tune(pipe, prompts=PROMPTS, **call)


def test_a_class_that_the_model_has_not():
    pipe, call = pipeline("dit")
    with pytest.raises(CalibrationError, match=r"'z' is no class of this DiTPipeline: its 2 classes are a red circle"):
        c4d.tune(pipe, prompts=["z"], **call)


def test_a_class_by_its_number():
    pipe, _ = pipeline("dit")
    assert asked(pipe, [PROMPTS[1], "3"]) == ("class_labels", [5, 3])


def profile_of(model, steps=STEPS):
    """By hand: every other step."""
    levels = [1 - i / steps for i in range(steps)]
    computed = tuple(levels[i] for i in range(0, steps, 2))
    half = (0.0, 0.5, 0.0, 0.0, 0.0)
    plan = Plan(computed, tuple((n, half) for n in levels if n not in computed))
    return Profile("flow", {len(computed): plan}, None if model is None else signature(model))


def test_a_profile_of_another_architecture_is_an_error(tmp_path):
    wan, flux = pipeline("wan")[0], pipeline("flux")[0]
    profile_of(wan.transformer).save(tmp_path / "p.json")
    with pytest.raises(ProfileError, match="made for WanTransformer3DModel, and this is FluxTransformer2DModel"):
        c4d.cached(flux, f"profile:{tmp_path}/p.json")
    more = pipes.transformer(**{**wan.transformer.config, "num_layers": 2})
    with pytest.raises(ProfileError, match="num_layers=4, and this has 2"):
        c4d.cached(more, f"profile:{tmp_path}/p.json", scheduler=wan.scheduler)


def test_what_is_chosen(tmp_path):
    pipe, call = pipeline("wan")
    folder = tmp_path / "cache/c4d/profiles"
    folder.mkdir(parents=True)
    profile_of(pipe.transformer).save(folder / "mine.json")
    assert for_model(signature(pipe.transformer))[0] == "mine"
    choice = choose_method([pipe.transformer], pipe.scheduler, "fast")
    assert choice.method.name == "profile:mine,quality=fast" and "made for this model" in choice.why
    with c4d.cached(pipe) as session:
        latents(pipe, call)
    assert "mine" in session.chosen and f"chosen   {session.chosen}" in str(session.report())
    few = choose_method([pipe.transformer], pipe.scheduler, "balanced", steps=8)
    assert few.method is None and "of 8 steps none can be spared" in few.why and "--steps 7" in few.why
    noisy = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    assert "adds noise" in choose_method([pipe.transformer], noisy, "balanced").why
    with pytest.raises(ValueError, match="unknown quality 'best': known are high, balanced, fast"):
        c4d.cached(pipe, quality="best")


def test_a_model_that_predicts_noise_has_its_profile_for_its_own_sampler(tmp_path):
    pipe, call = pipeline("dit")
    folder = tmp_path / "cache/c4d/profiles"
    folder.mkdir(parents=True)
    c4d.tune(pipe, prompts=PROMPTS, computed=5, minutes=0, **call).save(folder / "dit.json")
    own = choose_method([pipe.transformer], pipe.scheduler, "fast")
    assert own.method is not None and own.method.name == "profile:dit,quality=fast"
    unipc = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    other = choose_method([pipe.transformer], unipc, "fast")
    assert other.method is None and "made with DDIMScheduler" in other.why and "UniPC" in other.why
    ddim, pipe.scheduler = pipe.scheduler, unipc
    for name in ("aa", "zz"):  # before the other one and after it
        c4d.tune(pipe, prompts=PROMPTS, computed=5, minutes=0, **call).save(folder / f"{name}.json")
        assert choose_method([pipe.transformer], unipc, "fast").method.name == f"profile:{name},quality=fast"
        assert choose_method([pipe.transformer], ddim, "fast").method.name == "profile:dit,quality=fast"


def test_the_universal_profile_is_for_models_without_one_and_for_samplers_that_it_was_measured_with(tmp_path):
    pipe, call = pipeline("flux")
    choice = choose_method([pipe.transformer], pipe.scheduler, "balanced")
    assert choice.method.name == "profile:universal,quality=balanced" and "other, small models" in choice.why
    wan, _ = pipeline("wan")
    assert choose_method([wan.transformer], wan.scheduler, "balanced").method.name == choice.method.name
    other = choose_method([wan.transformer], FlowMatchHeunDiscreteScheduler(), "balanced")
    assert other.method is None and "not measured with FlowMatchHeun" in other.why and "c4d tune" in other.why
    with c4d.cached(pipe, quality="fast") as session:
        latents(pipe, {**call, "num_inference_steps": 30})
    report = session.report()
    assert (report.computed, report.reused) == (7, 23) and "universal" in session.chosen


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_short_run_computes_all(quality, tmp_path):
    pipe, call = pipeline("wan")
    profile_of(pipe.transformer).save(tmp_path / "p.json")
    with c4d.cached(pipe, f"profile:{tmp_path}/p.json,quality={quality}") as session:
        latents(pipe, {**call, "num_inference_steps": 6})
    assert session.report().reused == 0 and "of 6 steps none is spared" in session.report().why[0]


def test_a_broken_profile_in_the_folder_is_passed_over(tmp_path):
    pipe, _ = pipeline("wan")
    folder = tmp_path / "cache/c4d/profiles"
    folder.mkdir(parents=True)
    (folder / "zz.json").write_text("{")
    profile_of(pipe.transformer).save(folder / "aa.json")
    assert for_model(signature(pipe.transformer))[0] == "aa"
    with pytest.raises(c4d.MethodError, match="no profile is named 'bb': known are"):
        c4d.cached(pipe, "profile:bb")


def test_what_is_searched_is_fitted_to_all_samples_in_the_end(tmp_path):
    """The search holds half of them back; with the ridge that suited those, all teach the plan."""
    pipe, call = pipeline("flux")
    profile = c4d.tune(pipe, prompts=PROMPTS, samples=4, computed=5, trials=6, **call)
    (plan,), found = profile.plans.values(), profile.measured[5]["fit"]
    job, reference = recorded(pipe, PROMPTS * 2, call)
    fit = Fit(job, reference, ridge=found["ridge"])
    steps = plan.steps(reference.levels)
    assert plan.between == fit.plan(fit.follow(steps)).between
    assert plan.between != fit.plan(fit.follow(steps, rows=(0, 2))).between


def recorded(pipe, prompts, call):
    generate, count = sampling(pipe, prompts, seed=0, batch=len(prompts), call=call)
    read = [partial(latents_given, pipe.transformer, spec_for(pipe.transformer))]
    job = Samplings([pipe.transformer], pipe.scheduler, generate, count, read)
    return job, record(job)
